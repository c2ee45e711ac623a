"""Random encoders of the kind that an SAE starts from, and probes, which stand for their rows."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv


def random_encoder(d_in: int, d_sae: int, seed: int) -> NDArray[np.float32]:
    """Draws W_enc [d_in, d_sae] with unit columns, uniform on the sphere: Gaussian and normalized (paper, B.1).

    The normalized uniform weights of a default `nn.Linear` are no substitute: if the mean of the activations lies along
    one axis, they change dead rates by several points.

    `saelib.sae.initial_weights` draws from the same distribution, but with torch's generator, so the dictionaries that
    are measured are not the ones that are trained. Both are kept: rates at initialization are means over several seeds
    of the distribution, this stage needs no torch, and with another generator all published numbers would change.
    """
    w_enc = np.random.default_rng(seed).standard_normal((d_in, d_sae), dtype=np.float32)
    w_enc /= np.linalg.norm(w_enc, axis=0)
    return w_enc


def stratified_probes(direction: NDArray[np.float64], probes: int, seed: int) -> NDArray[np.float32]:
    """Draws unit vectors [probes, d] whose cosines with `direction`, a unit vector [d], are spread evenly.

    The sphere is cut across `direction` into as many strata of equal area as there are probes, and row i is uniform on
    stratum i. So the mean of any function over the rows estimates its mean over the sphere without bias, as it would
    from independent rows. Its variance is only the one within strata: whatever depends on the shift along `direction`
    adds none. Rows that follow each other lie in neighboring strata.
    """
    d = len(direction)
    across = random_encoder(d, probes, seed).T.astype(np.float64, order="C")
    across -= np.outer(across @ direction, direction)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    areas = (np.arange(probes) + np.random.default_rng([seed, probes]).random(probes)) / probes
    cosines = 2 * betaincinv((d - 1) / 2, (d - 1) / 2, areas)[:, None] - 1
    across *= np.sqrt(1 - cosines**2)
    across += cosines * direction
    return across.astype(np.float32)
