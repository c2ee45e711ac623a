"""Selection in two stages: candidates from a product of 16-bit integers, the decision between them in float32.

The error of the integers' product has a bound (`integers.error_bound`), so that the candidates are certain to hold
everything that float32 would select.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import kernel
from saelib.sae.kernels.forward import Codes, EncodeBuffers, center_rows, empty_codes, mark_positive
from saelib.sae.kernels.gather import dot
from saelib.sae.kernels.integers import (
    LENGTH,
    IntegerPanels,
    IntegerRows,
    empty_rows,
    error_bound,
    multiply_integers,
    round_row,
)
from saelib.sae.kernels.select import SelectBuffers, row_length, select_buffers, select_near, select_row
from saelib.sae.kernels.threads import Workers

WORTH_IT = 32
"""Latents for each selected one, from which candidates and a decision take less time than a product in float32."""


class IntegerEncoder(NamedTuple):
    """Parameters of the encoder, W_enc rounded to integers."""

    b_dec: NDArray[np.float32]
    """[width]"""
    panels: IntegerPanels
    b_enc: NDArray[np.float32]
    """[padded d_sae]; -inf beyond d_sae."""


class ScreenBuffers(NamedTuple):
    """Buffers of one worker."""

    rows: IntegerRows
    encode: EncodeBuffers


def most_candidates(k: int) -> int:
    """More than that, and float32 decides alone."""
    return 2 * k + 16


def screen_batch(
    x: NDArray[np.float32],
    blocks: list[tuple[int, int]],
    encoder: IntegerEncoder,
    W_enc: NDArray[np.float32],
    centered: NDArray[np.float32],
    codes: Codes,
    buffers: list[EncodeBuffers],
    workers: Workers,
) -> list[tuple[int, int]]:
    """Do what `forward.encode_block` does, block by block. Pre-activations count as positive by their sign in integers.

    Args:
        x: [tokens, d_in]
        blocks: First token of each, and the one behind its last.
        encoder: Parameters.
        W_enc: [d_sae, width], a latent a row.
        centered: Written, [tokens, width].
        codes: Written.
        buffers: One for each worker, with room for any block.
        workers: Who does it.

    Returns:
        The blocks without codes: some token has more candidates than `most_candidates`, or is not finite.
    """
    k = codes.values.shape[1]
    near = empty_codes(len(x), most_candidates(k))
    slack = np.float32(2 * error_bound(centered.shape[1]) * float(LENGTH) * float(encoder.panels.scales.max()))
    screening = [ScreenBuffers(empty_rows(len(own.hidden), centered.shape[1]), own) for own in buffers]
    length = row_length(most_candidates(k), k)
    chosen = [(np.empty((1, length), np.float32), select_buffers(most_candidates(k), k)) for _ in buffers]
    found = [False] * len(blocks)

    def screen(i: int, worker: int) -> None:
        found[i] = screen_block(x, *blocks[i], encoder, slack, k, centered, near, screening[worker])

    def decide(i: int, worker: int) -> None:
        if found[i]:
            decide_block(centered, *blocks[i], W_enc, encoder.b_enc, near, codes, *chosen[worker])

    workers.each(len(blocks), screen)
    workers.each(len(blocks), decide)
    return [block for block, all_found in zip(blocks, found, strict=True) if not all_found]


@kernel
def screen_block(
    x: NDArray[np.float32],
    start: int,
    stop: int,
    encoder: IntegerEncoder,
    slack: np.float32,
    k: int,
    centered: NDArray[np.float32],
    near: Codes,
    buffers: ScreenBuffers,
) -> bool:
    """Candidates of tokens `start` to `stop`; whether there was room for all of them.

    Args:
        x: [tokens, d_in]
        start: First token.
        stop: The token behind the last one.
        encoder: Parameters.
        slack: Twice the largest error of a pre-activation, over the norm of its token.
        k: How many will be selected.
        centered: Written, as by `encode_block`.
        near: Written: the candidates, without their values.
        buffers: Those of this worker.
    """
    rows, encode = buffers
    hidden, positive, select = encode.hidden, encode.positive, encode.select
    center_rows(x, start, stop, encoder.b_dec, centered)
    for token in range(start, stop):
        round_row(centered, token, rows, token - start)
    multiply_integers(rows, stop - start, encoder.panels, encoder.b_enc, hidden)
    indices, length, most = near.indices, hidden.shape[1], near.indices.shape[1]
    for token in range(start, stop):
        row = token - start
        own_slack = slack * (rows.scales[row] * LENGTH)
        mark_positive(hidden, row, positive)
        if not own_slack < np.inf:
            return False
        count = select_near(hidden, row, length, k, own_slack, select, indices, token)
        if count > most:
            return False
        near.counts[token] = count
    return True


@kernel
def decide_block(
    centered: NDArray[np.float32],
    start: int,
    stop: int,
    W_enc: NDArray[np.float32],
    b_enc: NDArray[np.float32],
    near: Codes,
    codes: Codes,
    row: NDArray[np.float32],
    buffers: SelectBuffers,
) -> None:
    """Codes of tokens `start` to `stop` among their candidates; `row` [1, row_length] is a buffer."""
    for token in range(start, stop):
        row[:] = -np.inf
        for q in range(near.counts[token]):
            latent = near.indices[token, q]
            row[0, q] = dot(W_enc, latent, centered, token) + b_enc[latent]
        found = select_row(row, 0, row.shape[1], buffers, codes.values, codes.indices, token)
        for q in range(found):
            codes.indices[token, q] = near.indices[token, codes.indices[token, q]]
        codes.counts[token] = found
