"""Codes of a small SAE, a tile of tokens at a time: their pre-activations lie latent by latent, a token a column.

The k largest entries of TILE columns are found at once, a vector of tokens at a time, without a search for each token.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import inner, inner_sum
from saelib.sae.kernels.forward import Codes, empty_codes
from saelib.sae.kernels.gemm import gemm_rows
from saelib.sae.kernels.llvm.columns import (
    MANY,
    SOME,
    TILE,
    mark_reached,
    rows_with_bit,
    take_many,
    take_one,
    take_some,
)
from saelib.sae.kernels.llvm.gemm import PANEL_VECTORS
from saelib.sae.kernels.llvm.vector import LANES
from saelib.sae.kernels.parameters import row_width

SMALLEST = np.float32(np.finfo(np.float32).smallest_subnormal)
"""The smallest float above 0: the bar that all positive entries reach."""
MASK = np.uint16 if LANES == 16 else np.uint8
"""A bit for each lane."""


class Batch(NamedTuple):
    """A batch in two orders, for any number of SAEs."""

    rows: NDArray[np.float32]
    """[tokens, width]; zeros beyond d_in."""
    tiles: NDArray[np.float32]
    """[ceil(tokens / TILE), d_in + 1, TILE]; TILE tokens dimension by dimension, zeros behind the last token. The last
    row is 1, for the encoder's bias."""


class TileBuffers(NamedTuple):
    """Buffers of one worker."""

    codes: Codes
    """The codes of a tile of tokens."""
    code_grads: NDArray[np.float32]
    """[TILE, k]; derivatives of half the squared error by the codes."""
    token: NDArray[np.float32]
    """[2, width]; what the SAE reads less b_dec, and the error."""
    hidden: NDArray[np.float32]
    """Pre-activations, [d_sae, TILE]."""
    rest: NDArray[np.float32]
    """The same without the entries that were taken."""
    bars: NDArray[np.float32]
    """[TILE]; the k-th largest positive pre-activation of each token, 0 if there are fewer."""
    masks: NDArray[np.integer]
    """[PANEL_VECTORS, d_sae rounded up]; which tokens of a vector selected a latent."""
    found: NDArray[np.int32]
    """[at least d_sae + LANES]; the latents of one token."""
    zeros: NDArray[np.float32]
    """[TILE]"""
    positive: NDArray[np.uint8]
    """[d_sae]; 1 where a pre-activation was > 0 in some tile."""


def tile_buffers(d_in: int, d_sae: int, k: int) -> TileBuffers:
    """Buffers for an SAE of this size."""
    rounded = -(-d_sae // LANES) * LANES
    hidden, rest = np.zeros((2, d_sae, TILE), np.float32)
    bars, zeros = np.zeros((2, TILE), np.float32)
    return TileBuffers(
        codes=empty_codes(TILE, k),
        code_grads=np.zeros((TILE, k), np.float32),
        token=np.zeros((2, row_width(d_in)), np.float32),
        hidden=hidden,
        rest=rest,
        bars=bars,
        masks=np.zeros((PANEL_VECTORS, rounded), MASK),
        found=np.zeros(rounded + LANES, np.int32),
        zeros=zeros,
        positive=np.zeros(d_sae, np.uint8),
    )


def empty_batch(tokens: int, d_in: int) -> Batch:
    """Room for a batch."""
    tiles = np.zeros((-(-tokens // TILE), d_in + 1, TILE), np.float32)
    tiles[:, d_in] = 1
    return Batch(np.zeros((tokens, row_width(d_in)), np.float32), tiles)


@inner
def fill_batch(x, center, start, stop, batch):
    """Writes tokens `start` to `stop` of x - center; x [tokens, d_in], center [at least d_in]."""
    rows, tiles = batch
    for token in range(start, stop):
        tile, column = token // TILE, token % TILE
        for d in range(x.shape[1]):
            value = x[token, d] - center[d]
            rows[token, d] = value
            tiles[tile, d, column] = value


@inner
def encode_tile(tiles, tile, tokens, encoder, buffers):
    """Writes the codes of a tile; returns the sum over its tokens of the k-th largest positive pre-activation.

    Args:
        tiles: `Batch.tiles`
        tile: Which one.
        tokens: How many of its columns are tokens.
        encoder: [d_sae, d_in + 1]; weights and bias of each latent, for the batch as it is.
        buffers: `TileBuffers`
    """
    gemm_rows(encoder, 0, len(encoder), tiles[tile : tile + 1], buffers.zeros, buffers.hidden)
    return select_tile(tokens, buffers)


@inner
def select_tile(tokens, buffers):
    """`encode_tile`, given the pre-activations in `buffers.hidden`.

    The latents of a token are in ascending order; of equal pre-activations the first are taken.
    """
    hidden, bars = buffers.hidden, buffers.bars
    if tokens < TILE:
        hidden[:, tokens:] = -np.inf
    _find_bars(hidden, buffers.codes.values.shape[1], buffers.rest, bars)
    total = _sum(bars)
    for t in range(TILE):
        bars[t] = max(bars[t], SMALLEST)
    mark_reached(hidden, len(hidden), bars, buffers.masks, buffers.masks.shape[1], buffers.positive)
    _write_codes(hidden, tokens, buffers)
    return total


@inner
def _find_bars(hidden, k, rest, bars):
    """Writes the k-th largest positive entry of each column."""
    source, left = hidden, k
    while left > 0:
        if left >= MANY:
            take_many(source, len(hidden), rest, bars)
            left -= MANY
        elif left >= SOME:
            take_some(source, len(hidden), rest, bars)
            left -= SOME
        else:
            take_one(source, len(hidden), rest, bars)
            left -= 1
        source = rest


@inner_sum
def _sum(values):
    total = np.float32(0)
    for value in values:
        total += value
    return total


@inner
def _write_codes(hidden, tokens, buffers):
    """Writes what `buffers.masks` selects; of entries equal to the bar only as many as there is room for."""
    values, indices, counts = buffers.codes
    masks, found, bars = buffers.masks, buffers.found, buffers.bars
    k, stride = values.shape[1], masks.shape[1]
    for t in range(tokens):
        count = rows_with_bit(masks, t // LANES * stride, stride, t % LANES, found)
        if count > k:
            count = _leave_out_ties(hidden, t, bars[t], k, found, count)
        for q in range(count):
            latent = found[q]
            values[t, q] = hidden[latent, t]
            indices[t, q] = latent
        counts[t] = count


@inner
def _leave_out_ties(hidden, t, bar, k, found, count):
    """Keeps of the `count` found latents those above the bar and the first of those equal to it, k in all."""
    equal_left = k
    for q in range(count):
        if hidden[found[q], t] > bar:
            equal_left -= 1
    kept = 0
    for q in range(count):
        equal = hidden[found[q], t] == bar
        if equal and equal_left == 0:
            continue
        equal_left -= int(equal)
        found[kept] = found[q]
        kept += 1
    return kept
