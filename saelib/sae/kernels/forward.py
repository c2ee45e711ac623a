"""Codes, errors and the gradients of codes of a batch, a block of tokens at a time."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import inner, kernel
from saelib.sae.kernels.gather import add_weighted_rows, dot
from saelib.sae.kernels.gemm import gemm_rows, padded
from saelib.sae.kernels.llvm.few import FEW, SHORT_ROW, take_largest
from saelib.sae.kernels.select import SelectBuffers, row_length, select_buffers, select_row


class Codes(NamedTuple):
    """The selected latents of each token: the first `counts[token]` of its k places."""

    values: NDArray[np.float32]
    """[tokens, k], > 0"""
    indices: NDArray[np.int32]
    """The same."""
    counts: NDArray[np.int32]
    """[tokens]"""


class Encoder(NamedTuple):
    """Parameters of the encoder, as it reads them."""

    b_dec: NDArray[np.float32]
    """[at least d_in]"""
    panels: NDArray[np.float32]
    """`gemm.pack` of W_enc."""
    b_enc: NDArray[np.float32]
    """[padded d_sae]; -inf beyond d_sae."""


class EncodeBuffers(NamedTuple):
    """Buffers of one worker."""

    hidden: NDArray[np.float32]
    """Pre-activations of a block, [rows, row_length]; -inf beyond d_sae."""
    positive: NDArray[np.uint8]
    """[row_length]; 1 where a pre-activation was > 0 in some block."""
    select: SelectBuffers


class DeadPreActivations(NamedTuple):
    """Pre-activations that are needed after all tokens were encoded."""

    latents: NDArray[np.int32]
    """[n]"""
    hidden: NDArray[np.float32]
    """[tokens, n]"""


class EncodedBatch(NamedTuple):
    """Results of encoding a batch."""

    centered: NDArray[np.float32]
    """[tokens, width]; x - b_dec, left alone beyond d_in."""
    codes: Codes
    kept: DeadPreActivations


def empty_codes(tokens: int, k: int) -> Codes:
    """Codes without any latent selected."""
    return Codes(np.zeros((tokens, k), np.float32), np.zeros((tokens, k), np.int32), np.zeros(tokens, np.int32))


def keep_nothing(tokens: int) -> DeadPreActivations:
    """No pre-activations are needed later."""
    return DeadPreActivations(np.zeros(0, np.int32), np.zeros((tokens, 0), np.float32))


def encode_buffers(rows: int, d_sae: int, k: int) -> EncodeBuffers:
    """Buffers for blocks of up to `rows` tokens."""
    length = row_length(padded(d_sae), k)
    hidden = np.full((rows, length), -np.inf, np.float32)
    return EncodeBuffers(hidden, np.zeros(length, np.uint8), select_buffers(padded(d_sae), k))


@inner
def center_rows(x, start, stop, center, out):
    """out[start:stop, :d_in] = x[start:stop] - center[:d_in]."""
    for token in range(start, stop):
        for d in range(x.shape[1]):
            out[token, d] = x[token, d] - center[d]


@kernel
def encode_block(
    x: NDArray[np.float32],
    start: int,
    stop: int,
    encoder: Encoder,
    encoded: EncodedBatch,
    buffers: EncodeBuffers,
) -> None:
    """Codes of tokens `start` to `stop`, selected while their pre-activations are in cache.

    Args:
        x: [tokens, d_in]
        start: First token.
        stop: The token behind the last one; no more tokens than the buffers have rows.
        encoder: Parameters.
        encoded: Written.
        buffers: Those of this worker.
    """
    center_rows(x, start, stop, encoder.b_dec, encoded.centered)
    gemm_rows(encoded.centered, start, stop - start, encoder.panels, encoder.b_enc, buffers.hidden)
    select_block(start, stop, encoded.codes, encoded.kept, buffers)


@kernel
def select_block(start: int, stop: int, codes: Codes, kept: DeadPreActivations, buffers: EncodeBuffers) -> None:
    """`encode_block`, given the pre-activations in `buffers.hidden`."""
    # Names of their own, and no slices: counting references to arrays costs as much as selecting from a short row.
    hidden, positive, select = buffers.hidden, buffers.positive, buffers.select
    values, indices, counts = codes.values, codes.indices, codes.counts
    latents, kept_hidden = kept.latents, kept.hidden
    length, k = hidden.shape[1], values.shape[1]
    few_of_short = length == SHORT_ROW and k <= FEW
    for token in range(start, stop):
        row = token - start
        mark_positive(hidden, row, positive)
        if few_of_short:
            counts[token] = take_largest(hidden, row * length, k, values, indices, token * k)
        else:
            counts[token] = select_row(hidden, row, length, select, values, indices, token)
        for i in range(len(latents)):
            kept_hidden[token, i] = hidden[row, latents[i]]


@inner
def mark_positive(hidden, row, positive):
    """Sets positive[j] to 1 where hidden[row, j] > 0."""
    for j in range(hidden.shape[1]):
        positive[j] |= np.uint8(hidden[row, j] > 0)


@kernel
def decode_block(
    base: NDArray[np.float32],
    sign: np.float32,
    start: int,
    stop: int,
    W_dec: NDArray[np.float32],
    codes: Codes,
    error: NDArray[np.float32],
    code_grads: NDArray[np.float32],
    error_sum: NDArray[np.float32],
) -> None:
    """Reconstruction minus its target: error = codes W_dec + sign * base, of tokens `start` to `stop`.

    Args:
        base: [tokens, width]
        sign: 1 or -1.
        start: First token.
        stop: The token behind the last one.
        W_dec: [d_sae, width]
        codes: Those of these tokens.
        error: Written, like base.
        code_grads: Written, [tokens, k]: <error, W_dec row> of each selected latent.
        error_sum: Written, [width]: the sum of these errors.
    """
    k = codes.values.shape[1]
    error_sum[:] = 0
    for token in range(start, stop):
        count = codes.counts[token]
        scale_row(base[token], sign, error[token])
        add_weighted_rows(error, token, codes.indices, codes.values, token * k, count, W_dec)
        for q in range(count):
            code_grads[token, q] = dot(W_dec, codes.indices[token, q], error, token)
        add_row(error[token], error_sum)


@inner
def scale_row(row, factor, out):
    """out = factor * row."""
    for d in range(len(row)):
        out[d] = factor * row[d]


@inner
def add_row(row, total):
    """total += row."""
    for d in range(len(row)):
        total[d] += row[d]
