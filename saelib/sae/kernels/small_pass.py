"""Tokens of a small SAE forwards and backwards: a tile of them in one call, while all of it is in cache."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.columns import TILE, Batch, TileBuffers, encode_tile, fill_batch
from saelib.sae.kernels.compiled import inner, kernel
from saelib.sae.kernels.latents import Weights
from saelib.sae.kernels.llvm.tokens import PIECE, decode_piece, decode_vector, scatter_piece, scatter_vector
from saelib.sae.kernels.llvm.vector import LANES

RUN = 1024
"""Tokens of a run, whose sums are made by one thread; a multiple of TILE."""
COLUMNS = PIECE * LANES


class RunSums(NamedTuple):
    """Sums over each run of tokens. Gradients are without the factor of the loss."""

    W_enc: NDArray[np.float32]
    """[runs, d_sae, width]"""
    W_dec: NDArray[np.float32]
    """The same."""
    b_enc: NDArray[np.float32]
    """[runs, d_sae]"""
    error: NDArray[np.float32]
    """[runs, 2, width]; of errors, and of their squares."""
    bars: NDArray[np.float64]
    """[runs]; of the k-th largest positive pre-activation of each token."""
    counts: NDArray[np.int64]
    """[runs, d_sae]; of tokens that selected a latent."""


class Reading(NamedTuple):
    """The way an SAE reads a batch: scale * row + center is a token less b_dec."""

    scale: np.float32
    center: NDArray[np.float32]
    """[width]"""


@kernel
def fill_run(x: NDArray[np.float32], center: NDArray[np.float32], run: int, batch: Batch) -> None:
    """Writes the tokens of a run of x - center to a batch; x [tokens, d_in], center [at least d_in]."""
    fill_batch(x, center, run * RUN, min((run + 1) * RUN, len(x)), batch)


@kernel
def fill_encoder(weights: Weights, reading: Reading, encoder: NDArray[np.float32]) -> None:
    """Writes weights and biases that act on a batch as the SAE's act on what it reads, [d_sae, d_in + 1].

    So what the center adds is added once, in float64, and not for each token.
    """
    W_enc, b_enc = weights.W_enc, weights.b_enc
    scale, center = reading
    d_sae, d_in = encoder.shape[0], encoder.shape[1] - 1
    for j in range(d_sae):
        bias = np.float64(b_enc[j])
        for d in range(d_in):
            bias += np.float64(W_enc[j, d]) * np.float64(center[d])
            encoder[j, d] = scale * W_enc[j, d]
        encoder[j, d_in] = bias


@kernel
def differentiate_runs(
    batch: Batch,
    first: int,
    last: int,
    reading: Reading,
    encoder: NDArray[np.float32],
    weights: Weights,
    sums: RunSums,
    errors: NDArray[np.float32],
    buffers: TileBuffers,
) -> None:
    """Writes the sums of runs `first` to `last` of a batch, and each token's error unless `errors` has no rows."""
    rows, tiles = batch
    for run in range(first, last):
        sums.W_enc[run] = 0
        sums.W_dec[run] = 0
        sums.b_enc[run] = 0
        sums.error[run] = 0
        sums.bars[run] = 0
        sums.counts[run] = 0
        for start in range(run * RUN, min((run + 1) * RUN, len(rows)), TILE):
            tokens = min(TILE, len(rows) - start)
            sums.bars[run] += encode_tile(tiles, start // TILE, tokens, encoder, buffers)
            for t in range(tokens):
                scale, center = reading
                decode_token(rows, start + t, scale, center, weights.W_dec, t, sums.error[run], buffers)
                scatter_token(run, t, sums, buffers)
                if len(errors) > 0:
                    for d in range(rows.shape[1]):
                        errors[start + t, d] = buffers.token[1, d]


@inner
def decode_token(rows, row, scale, center, W_dec, t, totals, buffers):
    """Writes token `t` of a tile, scale * rows[row] + center, its error and the gradients of its codes to the buffers.

    The error and its square are added to `totals` [2, width].
    """
    values, indices, counts = buffers.codes
    code_grads, token = buffers.code_grads, buffers.token
    width, count, start = rows.shape[1], counts[t], t * values.shape[1]
    for q in range(count):
        code_grads[t, q] = 0
    column = 0
    while column + COLUMNS <= width:
        decode_piece(rows, row, scale, center, values, indices, start, count, W_dec, code_grads, token, totals, column)
        column += COLUMNS
    while column < width:
        decode_vector(rows, row, scale, center, values, indices, start, count, W_dec, code_grads, token, totals, column)
        column += LANES


@inner
def scatter_token(run, t, sums, buffers):
    """Adds token `t` of a tile, as the buffers have it, to the gradients of its latents in the sums of its run."""
    values, indices, counts = buffers.codes
    code_grads, token = buffers.code_grads, buffers.token
    width, count, start = token.shape[1], counts[t], t * values.shape[1]
    first, column = run * sums.W_dec.shape[1] * width, 0
    while column + COLUMNS <= width:
        scatter_piece(values, code_grads, indices, start, count, token, sums.W_dec, sums.W_enc, first, column)
        column += COLUMNS
    while column < width:
        scatter_vector(values, code_grads, indices, start, count, token, sums.W_dec, sums.W_enc, first, column)
        column += LANES
    for q in range(count):
        sums.b_enc[run, indices[t, q]] += code_grads[t, q]
        sums.counts[run, indices[t, q]] += 1
