"""Random encoders of the kind that an SAE starts from."""

import numpy as np
from numpy.typing import NDArray


def random_encoder(d_in: int, d_sae: int, seed: int) -> NDArray[np.float32]:
    """Draw W_enc [d_in, d_sae], whose unit columns are uniform on the sphere: Gaussian, then normalized (paper, B.1).

    The normalized uniform weights of a default `nn.Linear` are no substitute: if the mean of the activations lies along
    one axis, they change dead rates by several percentage points.
    """
    w_enc = np.random.default_rng(seed).standard_normal((d_in, d_sae), dtype=np.float32)
    w_enc /= np.linalg.norm(w_enc, axis=0)
    return w_enc
