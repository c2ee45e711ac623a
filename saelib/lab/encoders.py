"""Random dictionaries of the lab."""

import numpy as np
from numpy.typing import NDArray

from saelib.config.lab import SaeSize


def draw_encoder(
    sae: SaeSize, d_in: int, seed: int, subspace: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Draws W_enc [d_in, d_sae] with unit columns.

    Args:
        sae: Number of latents, and the distribution of entries before normalization.
        d_in: Width of what the dictionary reads.
        seed: Seed of the draw. Gaussian rows are those of `saelib.init_death.encoder`.
        subspace: [d_in, rank], orthonormal columns that all directions lie between (active subspace initialization).
    """
    rng = np.random.default_rng(seed)
    shape = (d_in if subspace is None else subspace.shape[1], sae.d_sae)
    if sae.rows == "gaussian":
        w_enc = rng.standard_normal(shape, dtype=np.float32)
    else:
        w_enc = 2 * rng.random(shape, dtype=np.float32) - 1
    if subspace is not None:
        w_enc = subspace @ w_enc
    return w_enc / np.linalg.norm(w_enc, axis=0)
