"""Reconstruction errors, and their gradients for the output and for each code."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from saelib.sae.gpu.entries import Entries
from saelib.sae.gpu.launch import ROWS, launch, power_of_two, warps
from saelib.sae.gpu.select import NOTHING


@triton.jit
def _decoder_rows(W_dec, latents, codes, e, here, c, inside, d):
    """Gives codes [J] and rows of W_dec [J, D] of the entries `e`; those of empty entries are 0."""
    latent = tl.load(latents + e, mask=here, other=NOTHING)
    code = tl.load(codes + e, mask=here, other=0.0)
    used = latent != NOTHING
    at = W_dec + latent.to(tl.int64)[:, None] * d + c[None, :]
    return code, tl.load(at, mask=used[:, None] & inside[None, :], other=0.0)


@triton.jit
def decode_kernel(
    x, codes, latents, starts, W_dec, b_dec, g, d_codes, scale, tokens, d, D: tl.constexpr, J: tl.constexpr
):
    """One row: the gradient `g` of its reconstruction, scale (x_hat - x), and that of each of its codes."""
    row = tl.program_id(0)
    sae = row // tokens
    token = (row % tokens).to(tl.int64)
    c = tl.arange(0, D)
    inside = c < d
    start = tl.load(starts + row)
    stop = tl.load(starts + row + 1)
    error = tl.load(b_dec + sae * d + c, mask=inside, other=0.0) - tl.load(x + token * d + c, mask=inside, other=0.0)
    first = start
    while first < stop:
        e = first + tl.arange(0, J)
        code, rows = _decoder_rows(W_dec, latents, codes, e, e < stop, c, inside, d)
        error += tl.sum(code[:, None] * rows, 0)
        first += J
    error *= scale
    tl.store(g + row.to(tl.int64) * d + c, error, mask=inside)
    first = start
    while first < stop:  # the rows are still in the L2 cache
        e = first + tl.arange(0, J)
        code, rows = _decoder_rows(W_dec, latents, codes, e, e < stop, c, inside, d)
        gradient = tl.sum(error[None, :] * rows, 1)
        tl.store(d_codes + e, tl.where(code == 0, 0.0, gradient), mask=e < stop)
        first += J


def decode(x: Tensor, entries: Entries, W_dec: Tensor, b_dec: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of the reconstructions [saes, tokens, d_in] and of the codes [entries].

    Args:
        x: float32 [tokens, d_in]
        entries: The batch's codes.
        W_dec: [saes, d_sae, d_in]
        b_dec: [saes, d_in]
        scale: Factor of x_hat - x in its gradient: 2 / (tokens * variance).
    """
    (tokens, d), saes = x.shape, len(b_dec)
    g = torch.empty(saes, tokens, d, dtype=torch.float32, device=x.device)
    d_codes = torch.empty_like(entries.codes)
    D = power_of_two(d)
    launch(
        decode_kernel, (saes * tokens,), x, entries.codes, entries.latents, entries.starts, W_dec, b_dec, g, d_codes,
        scale, tokens, d, D=D, J=ROWS, num_warps=warps(D),
    )  # fmt: skip
    return g, d_codes
