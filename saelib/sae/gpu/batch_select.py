"""BatchTopK: the k * tokens largest positive pre-activations of each SAE's batch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from saelib.sae.gpu.entries import Entries, Selected
from saelib.sae.gpu.launch import WIDEST, launch, power_of_two, warps
from saelib.sae.gpu.select import NOTHING, mark, sortable

DIGIT = 8
"""Bits of a value that a pass over the batch finds."""
LEAST = 128
"""A program's threads: with fewer values, some would be held, and counted in a histogram, more than once."""


@triton.jit
def _piece(values, n, width, N: tl.constexpr):
    """Loads part `program_id(1)` of row `program_id(0)`: places in the row, values (-1 past its end), and integers."""
    place = tl.arange(0, N)
    j = tl.program_id(1) * width + place
    inside = (place < width) & (j < n)
    value = tl.load(values + tl.program_id(0).to(tl.int64) * n + j, mask=inside, other=-1.0)
    return j, inside, value, sortable(value)


@triton.jit
def digits_kernel(values, prefix, counts, n, width, tokens, shift, BITS: tl.constexpr, N: tl.constexpr):
    """Adds up how often each digit at `shift` occurs among the SAE's values whose higher digits are `prefix`."""
    _, inside, _, bits = _piece(values, n, width, N)
    sae = tl.program_id(0) // tokens
    wanted = inside & ((bits >> shift >> BITS) == tl.load(prefix + sae))
    found = tl.histogram((bits >> shift) & ((1 << BITS) - 1), 1 << BITS, mask=wanted)
    digit = tl.arange(0, 1 << BITS)
    tl.atomic_add(counts + sae * (1 << BITS) + digit, found, mask=found > 0)  # of integers: any order gives the same


@triton.jit
def count_kernel(values, bar, above, tied, n, width, tokens, N: tl.constexpr):
    """Counts the values of a piece above the SAE's bar, and those equal to it if it is not 0."""
    _, _, _, bits = _piece(values, n, width, N)
    limit = tl.load(bar + tl.program_id(0) // tokens)
    piece = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(above + piece, tl.sum((bits > limit).to(tl.int32), 0))
    tl.store(tied + piece, tl.sum(((bits == limit) & (limit > 0)).to(tl.int32), 0))


@triton.jit
def write_kernel(values, bar, room, before, codes, latents, rows, positive, fired, n, width, tokens, N: tl.constexpr):
    """Writes the selected entries of a piece from place `before` on: all above the bar, and the first `room` at it."""
    j, inside, value, bits = _piece(values, n, width, N)
    row = tl.program_id(0)
    limit = tl.load(bar + row // tokens)
    piece = row * tl.num_programs(1) + tl.program_id(1)
    tied = ((bits == limit) & (limit > 0)).to(tl.int32)
    chosen = (bits > limit).to(tl.int32) + tied * (tl.cumsum(tied, 0) <= tl.load(room + piece)).to(tl.int32)
    at = tl.load(before + piece) + tl.cumsum(chosen, 0) - 1
    name = (row // tokens) * n + j
    tl.store(codes + at, value, mask=chosen > 0)
    tl.store(latents + at, name, mask=chosen > 0)
    tl.store(rows + at, tl.zeros((N,), tl.int32) + row, mask=chosen > 0)
    mark(positive, name, inside & (value > 0))
    mark(fired, name, chosen > 0)


def batch_topk_entries(hidden: Tensor, k: int, widest: int = WIDEST) -> tuple[Selected, Tensor]:
    """Entries and flags of the k * tokens largest positive values of each SAE, and the smallest of these, [saes].

    Of equal values, those of the first tokens are selected, and of a token the first latents. If too few values are
    positive, all are selected, the last entries are empty, and the smallest is 0.

    Args:
        hidden: Pre-activations, float32 [saes, tokens, d_sae], contiguous.
        k: Entries of an SAE, divided by tokens.
        widest: Values that one program looks through.
    """
    saes, tokens, n = hidden.shape
    parts = -(-n // widest)
    width = -(-n // parts)
    pieces, sizes = (saes * tokens, parts), (n, width, tokens)
    N = max(LEAST, power_of_two(width))
    constants = {"N": N, "num_warps": warps(N)}

    def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=hidden.device)

    bar, ties = _bars(hidden, k * tokens, pieces, sizes, constants)
    above, tied = zeros(saes, tokens, parts), zeros(saes, tokens, parts)
    launch(count_kernel, pieces, hidden, bar, above, tied, *sizes, **constants)
    room = _room(tied, ties)
    ends = (above + torch.minimum(tied, room)).flatten().cumsum(0, dtype=torch.int32)
    before = torch.cat([zeros(1), ends])

    entries = Entries(
        codes=zeros(saes * k * tokens, dtype=torch.float32),
        latents=torch.full_like(zeros(saes * k * tokens), NOTHING.value),
        rows=zeros(saes * k * tokens),
        starts=before[::parts].contiguous(),
    )
    positive, fired = zeros(saes * n, dtype=torch.int8), zeros(saes * n, dtype=torch.int8)
    out = entries.codes, entries.latents, entries.rows, positive, fired
    launch(write_kernel, pieces, hidden, bar, room, before, *out, *sizes, **constants)
    selected = Selected(entries, fired.view(saes, n).bool(), positive.view(saes, n).bool())
    return selected, bar.view(torch.float32)


def _bars(
    hidden: Tensor, wanted: int, pieces: tuple[int, int], sizes: tuple[int, int, int], constants: dict[str, int]
) -> tuple[Tensor, Tensor]:
    """The integers of the values that are number `wanted` from above, and how many equal ones are wanted: [saes] each.

    One digit after the other, from the highest: those above it are counted and left behind.
    """
    saes = len(hidden)
    bar = torch.zeros(saes, dtype=torch.int32, device=hidden.device)
    left = torch.full_like(bar, wanted)
    for shift in range(32 - DIGIT, -1, -DIGIT):
        counts = torch.zeros(saes, 1 << DIGIT, dtype=torch.int32, device=hidden.device)
        launch(digits_kernel, pieces, hidden, bar, counts, *sizes, shift, BITS=DIGIT, **constants)
        above = counts.flip(1).cumsum(1, dtype=torch.int32).flip(1) - counts  # with a higher digit
        digit = (above >= left[:, None]).sum(1, dtype=torch.int32)
        left = left - above.gather(1, digit[:, None].long()).squeeze(1)
        bar = bar * (1 << DIGIT) + digit
    return bar, left


def _room(tied: Tensor, ties: Tensor) -> Tensor:
    """Counts the `tied` values [saes, tokens, parts] that each piece may take, if each SAE takes the first `ties`."""
    by_sae = tied.flatten(1)
    earlier = by_sae.cumsum(1, dtype=torch.int32) - by_sae
    return (ties[:, None] - earlier).clamp(min=0).view_as(tied)
