"""The algebra that moves an SAE between the spaces and conventions of different libraries, in float64.

Every function returns a new SAE.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.errors import UserError
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE, latent_by_latent
from saelib.sae.model import SAE

Matrix = NDArray[np.float64]


def fold_preprocess(saved: SavedSAE) -> SavedSAE:
    """Moves center and scale of the preprocessing into the weights; only the token norm stays outside.

    With z = (x - c) M, M^+ the way back and b_w the SAE's own b_dec: W_enc <- M W_enc, W_dec <- W_dec M^+,
    b_dec <- b_w M^+ + c, and b_enc <- b_enc + ((b_dec - c) M - b_w) W_enc with the new b_dec as float32 has it.
    That last term is 0 in exact arithmetic where M has full column rank. It is not where M has empty dimensions
    (b_w may have moved along them), and it takes up the rounding of b_dec, which whitening would magnify. A bypass
    A B becomes (M A) (B M^+), without that term, for which it has no bias.
    """
    sae, preprocess = saved.sae, saved.preprocess
    W_enc, W_dec, b_enc, b_dec = _weights(sae)
    center, scale, inverse = preprocess.center, preprocess.scale, preprocess.inverse
    folded_b_dec = (_times(b_dec, inverse) + center).astype(np.float32)
    shift = _times(folded_b_dec - center, scale) - b_dec
    bypass = {}
    if sae.bypass_in is not None and sae.bypass_out is not None:
        bypass["bypass_in"] = _times(_matrix(sae.bypass_in).T, None if scale is None else scale.T).T
        bypass["bypass_out"] = _times(_matrix(sae.bypass_out), inverse)
    folded = _with_weights(
        sae,
        W_enc=_times(W_enc.T, None if scale is None else scale.T).T,
        W_dec=_times(W_dec, inverse),
        b_enc=b_enc + shift @ W_enc,
        b_dec=folded_b_dec,
        **bypass,
    )
    return replace(saved, sae=folded, preprocess=Preprocessing(np.zeros(len(center)), None, preprocess.token_norm))


def rescale_input(sae: SAE, factor: float) -> SAE:
    """The SAE that reads `factor * x`, and reconstructs that, where `sae` reads x."""
    W_enc, W_dec, _, b_dec = _weights(sae)
    return _with_weights(sae, W_enc=W_enc / factor, W_dec=W_dec * factor, b_dec=b_dec * factor)  # a bypass is linear


def scale_decoder(sae: SAE, factor: Tensor) -> SAE:
    """The SAE whose codes are multiplied by `factor` [d_sae] before they are decoded; the codes stay what they are."""
    _, W_dec, _, _ = _weights(sae)
    return _with_weights(sae, W_dec=W_dec * factor.double().numpy()[:, None])


def center_input(sae: SAE) -> SAE:
    """Turns pre-activations x W_enc + b_enc into (x - b_dec) W_enc + b_enc."""
    W_enc, _, b_enc, b_dec = _weights(sae)
    return _with_weights(sae, b_enc=b_enc + b_dec @ W_enc)


def uncenter_input(sae: SAE) -> SAE:
    """Turns pre-activations (x - b_dec) W_enc + b_enc into x W_enc + b_enc."""
    W_enc, _, b_enc, b_dec = _weights(sae)
    return _with_weights(sae, b_enc=b_enc - b_dec @ W_enc)


def unit_decoder(sae: SAE) -> SAE:
    """W_dec with rows of norm 1; pre-activations and codes are multiplied by the norms that the rows had.

    A `relu` SAE keeps its reconstructions. A `topk` one then selects by contribution, pre-activation times norm.
    A latent whose row is 0 can do nothing: its row becomes the first axis, and its code is always 0.
    """
    W_enc, W_dec, b_enc, _ = _weights(sae)
    norms = np.linalg.norm(W_dec, axis=1)
    rows = W_dec / np.where(norms > 0, norms, 1)[:, None]
    rows[norms == 0, 0] = 1
    return _with_weights(sae, W_enc=W_enc * norms, W_dec=rows, b_enc=b_enc * norms)


def _times(rows: Matrix, factor: NDArray[np.float32] | None) -> Matrix:
    """Rows [..., d] by a matrix, by a diagonal one, or by the identity."""
    if factor is None:
        return rows
    return rows * factor if factor.ndim == 1 else rows @ factor.astype(np.float64)


def _weights(sae: SAE) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """W_enc, W_dec, b_enc, b_dec."""
    return _matrix(sae.W_enc), _matrix(sae.W_dec), _matrix(sae.b_enc), _matrix(sae.b_dec)


def _matrix(values: Tensor) -> Matrix:
    return values.detach().cpu().double().numpy()


def _with_weights(sae: SAE, **weights: NDArray[np.floating]) -> SAE:
    """`sae` with some weights replaced, in float32. Raises `UserError` where they are too large for that."""
    tensors = {name: value.detach().cpu().float() for name, value in sae.state_dict().items()}
    with np.errstate(over="ignore"):
        tensors |= {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise UserError(f"this SAE cannot be converted: {name} would hold numbers too large for float32")
    return SAE(sae.architecture, latent_by_latent(tensors), sae.k)
