"""Aligned training: the encoder and decoder directions of each latent keep the inner product 1.

Here e is a latent's encoder direction, and d its decoder row, of norm 1. The method (Brzozowski and Chung 2026, arXiv
2605.18629) reparametrizes e; its abstract, all that was at hand, does not say how. Here e = v + (1 - v . d) d with
a free v: only the component along d is set, and nothing is divided by v . d, which may be 0. e is of this form itself,
with v = e, so no second matrix is kept.
"""

import torch
from torch import Tensor

from saelib.sae.model import SAE

UNIT = 8
"""A product counts as 1 within this many units of rounding, so that a latent which nothing moves keeps its bits."""


@torch.no_grad()
def align(W_enc: Tensor, W_dec: Tensor) -> None:
    """Sets the inner product of each latent's directions to 1: W_enc [d_in, d_sae] moves along W_dec's unit rows."""
    rows = W_enc.T
    gap = 1 - torch.linalg.vecdot(rows, W_dec)
    rounding = UNIT * torch.finfo(gap.dtype).eps * torch.linalg.vector_norm(rows, dim=1)
    rows.addcmul_(torch.where(gap.abs() > rounding, gap, 0)[:, None], W_dec)


@torch.no_grad()
def align_gradients(sae: SAE) -> None:
    """Turns the gradients of aligned W_enc and W_dec into those of v and d: e's moves v across d, and turns d.

    With g the gradient of e: that of v is g - (g . d) d, and d's own gradient is joined by -(g . d) e.
    """
    assert sae.W_enc.grad is not None
    assert sae.W_dec.grad is not None
    gradient = sae.W_enc.grad.T
    along = torch.linalg.vecdot(gradient, sae.W_dec)[:, None]
    sae.W_dec.grad.addcmul_(along, sae.W_enc.T, value=-1)
    gradient.addcmul_(along, sae.W_dec, value=-1)
