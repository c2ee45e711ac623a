"""Random encoders of the kind that an SAE starts from."""

import numpy as np
from numpy.typing import NDArray


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
