"""Selection of the k largest positive pre-activations of each SAE and token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from saelib.sae.gpu.launch import WIDEST, launch, power_of_two, warps

NOTHING = tl.constexpr(2**31 - 1)
"""The latent of an empty entry; sorts behind all others."""


@triton.jit
def sortable(values):
    """Gives integers in the order of the values: 0 for those that are not positive, and the largest of all for NaN.

    Floats above 0 are in the order of the integers with the same bits.
    """
    bits = tl.maximum(values.to(tl.int32, bitcast=True), 0)
    return tl.where(values == values, bits, 0x7FFFFFFF)


@triton.jit
def mark(flags, at, wanted):
    """Sets int8 flags to 1 where `wanted`; writes only those that are not set yet."""
    known = tl.load(flags + at, mask=wanted, other=1)
    tl.store(flags + at, tl.full(at.shape, 1, tl.int8), mask=wanted & (known == 0))


@triton.jit
def _bar(bits, K: tl.constexpr):
    """Finds a bar with at most K values above it, and at least K at or above it; 0 if at most K are above 0."""
    low = tl.zeros((), tl.int32)
    high = tl.max(bits, 0)
    if tl.sum((bits > 0).to(tl.int32), 0) <= K:
        high = low
    while high - low > 1:  # more than K are above `low`, fewer above `high`
        middle = low + (high - low) // 2
        above = tl.sum((bits > middle).to(tl.int32), 0)
        low = tl.where(above >= K, middle, low)
        high = tl.where(above <= K, middle, high)
    return high


@triton.jit
def select_kernel(
    values, names, codes, latents, positive, fired, n, width, tokens,
    K: tl.constexpr, SLOTS: tl.constexpr, N: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Writes the K largest values of part `program_id(1)` of row `program_id(0)`, in the order of their places.

    A row of `values` [rows, n] that is too wide for one program is cut into parts, each of which gives K candidates
    (FIRST). The next call selects the K largest of these, whose latents are `names` [rows, n] (LAST). For narrow rows,
    one call is both, and `names` is not read. Of equal values, the first are selected.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    place = tl.arange(0, N)
    j = part * width + place
    inside = (place < width) & (j < n)
    value = tl.load(values + row * n + j, mask=inside, other=-1.0)
    bits = sortable(value)
    if FIRST:
        name = (row // tokens).to(tl.int32) * n + j
        mark(positive, name, inside & (value > 0))
    else:
        name = tl.load(names + row * n + j, mask=inside, other=0)
    bar = _bar(bits, K)
    above = (bits > bar).to(tl.int32)
    tied = ((bits == bar) & (bar > 0)).to(tl.int32)
    room = K - tl.sum(above, 0)
    chosen = above + tied * (tl.cumsum(tied, 0) <= room).to(tl.int32)
    slot = tl.cumsum(chosen, 0) - 1
    first = (row * tl.num_programs(1) + part) * K
    tl.store(codes + first + slot, value, mask=chosen > 0)
    tl.store(latents + first + slot, name, mask=chosen > 0)
    slots = tl.arange(0, SLOTS)
    empty = (slots >= tl.sum(chosen, 0)) & (slots < K)
    tl.store(codes + first + slots, tl.zeros((SLOTS,), tl.float32), mask=empty)
    tl.store(latents + first + slots, tl.full((SLOTS,), NOTHING, tl.int32), mask=empty)
    if LAST:
        mark(fired, name, chosen > 0)


def select(hidden: Tensor, k: int, positive: Tensor, fired: Tensor, widest: int = WIDEST) -> tuple[Tensor, Tensor]:
    """Codes and latents of the k largest positive values of each SAE and token: [saes, tokens, k] each.

    Latents are named SAE * d_sae + latent, in ascending order; an empty entry has the code 0 and the latent `NOTHING`.

    Args:
        hidden: Pre-activations, float32 [saes, tokens, d_sae], contiguous.
        k: At most half of `widest`.
        positive: int8 [saes * d_sae]; set to 1 if a latent is positive for some token, otherwise left as it is.
        fired: The same, if it is selected.
        widest: Values that one program looks through.
    """
    saes, tokens, n = hidden.shape
    values, names, first = hidden.view(saes * tokens, n), positive, True  # the first call does not read names
    while True:
        rows, n = values.shape
        parts = -(-n // widest)
        width = -(-n // parts)
        codes = torch.empty(rows, parts * k, dtype=torch.float32, device=hidden.device)
        latents = torch.empty(rows, parts * k, dtype=torch.int32, device=hidden.device)
        N = power_of_two(width)
        launch(
            select_kernel, (rows, parts), values, names, codes, latents, positive, fired, n, width, tokens,
            K=k, SLOTS=power_of_two(k), N=N, FIRST=first, LAST=parts == 1, num_warps=warps(N),
        )  # fmt: skip
        if parts == 1:
            return codes.view(saes, tokens, k), latents.view(saes, tokens, k)
        values, names, first = codes, latents, False
