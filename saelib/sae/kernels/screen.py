"""Selection in two stages: candidates from a product of 16-bit integers, the decision between them in float32.

The error of the integers' product has a bound (`integers.error_bound`), so that the candidates are certain to hold
everything that float32 would select.
"""

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
from saelib.sae.kernels.latents import Weights
from saelib.sae.kernels.select import SelectBuffers, row_length, select_buffers, select_near, select_row
from saelib.sae.kernels.threads import Workers

WORTH_IT = 32
"""Latents for each selected one, from which candidates and a decision take less time than a product in float32."""


def most_candidates(k: int) -> int:
    """More than that, and float32 decides alone."""
    return 2 * k + 16


def screen_batch(
    x: NDArray[np.float32],
    blocks: list[tuple[int, int]],
    b_dec: NDArray[np.float32],
    weights: Weights,
    panels: IntegerPanels,
    centered: NDArray[np.float32],
    codes: Codes,
    buffers: list[EncodeBuffers],
    workers: Workers,
) -> list[tuple[int, int]]:
    """What `forward.encode_block` does, block by block. Pre-activations count as positive by their sign in integers.

    Args:
        x: [tokens, d_in]
        blocks: First token of each, and the one behind its last.
        b_dec: [width]
        weights: Parameters of the latents.
        panels: W_enc in integers.
        centered: Written, [tokens, width].
        codes: Written.
        buffers: One for each worker, with room for any block.
        workers: Who does it.

    Returns:
        The blocks without codes: some token has more candidates than `most_candidates`, or is not finite.
    """
    k = codes.values.shape[1]
    near = empty_codes(len(x), most_candidates(k))
    slack = np.float32(2 * error_bound(centered.shape[1]) * float(LENGTH) * float(panels.scales.max()))
    rows = [empty_rows(len(own.hidden), centered.shape[1]) for own in buffers]
    length = row_length(most_candidates(k), k)
    chosen = [(np.empty((1, length), np.float32), select_buffers(most_candidates(k), k)) for _ in buffers]
    found = [False] * len(blocks)

    def screen(i: int, worker: int) -> None:
        bounds, own = blocks[i], (rows[worker], buffers[worker])
        found[i] = screen_block(x, *bounds, b_dec, panels, weights.b_enc, slack, k, centered, near, *own)

    def decide(i: int, worker: int) -> None:
        if found[i]:
            decide_block(centered, *blocks[i], weights, near, codes, *chosen[worker])

    workers.each(len(blocks), screen)
    workers.each(len(blocks), decide)
    return [block for block, all_found in zip(blocks, found, strict=True) if not all_found]


@kernel
def screen_block(
    x: NDArray[np.float32],
    start: int,
    stop: int,
    b_dec: NDArray[np.float32],
    panels: IntegerPanels,
    bias: NDArray[np.float32],
    slack: np.float32,
    k: int,
    centered: NDArray[np.float32],
    near: Codes,
    rows: IntegerRows,
    buffers: EncodeBuffers,
) -> bool:
    """Candidates of tokens `start` to `stop`; whether there was room for all of them.

    Args:
        x: [tokens, d_in]
        start: First token.
        stop: Behind the last.
        b_dec: [width]
        panels: W_enc in integers.
        bias: b_enc, -inf beyond d_sae.
        slack: Twice the largest error of a pre-activation, over the norm of its token.
        k: How many will be selected.
        centered: Written, as by `encode_block`.
        near: Written: the candidates, without their values.
        rows: Buffer of this worker.
        buffers: The same.
    """
    center_rows(x, start, stop, b_dec, centered)
    for token in range(start, stop):
        round_row(centered, token, rows, token - start)
    multiply_integers(rows, stop - start, panels, bias, buffers.hidden)
    indices, length, most = near.indices, buffers.hidden.shape[1], near.indices.shape[1]
    for token in range(start, stop):
        row = token - start
        own_slack = slack * (rows.scales[row] * LENGTH)
        mark_positive(buffers.hidden, row, buffers.positive)
        if not own_slack < np.inf:
            return False
        count = select_near(buffers.hidden, row, length, k, own_slack, buffers.select, indices, token)
        if count > most:
            return False
        near.counts[token] = count
    return True


@kernel
def decide_block(
    centered: NDArray[np.float32],
    start: int,
    stop: int,
    weights: Weights,
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
            row[0, q] = dot(weights.W_enc, latent, centered, token) + weights.b_enc[latent]
        found = select_row(row, 0, row.shape[1], buffers, codes.values, codes.indices, token)
        for q in range(found):
            codes.indices[token, q] = near.indices[token, codes.indices[token, q]]
        codes.counts[token] = found
