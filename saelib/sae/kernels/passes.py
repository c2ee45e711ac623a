"""Runs of a batch through the SAE, block by block."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.entries import Entries, empty_entries
from saelib.sae.kernels.forward import Codes, decode_block, empty_codes
from saelib.sae.kernels.gemm import block_rows
from saelib.sae.kernels.threads import Workers


class Pass(NamedTuple):
    """What is known of a batch for one part of the loss."""

    codes: Codes
    error: NDArray[np.float32]
    """[tokens, width]"""
    slopes: NDArray[np.float32]
    """[tokens, k]"""
    entries: Entries


def empty_pass(tokens: int, width: int, k: int, d_sae: int) -> Pass:
    """With nothing selected."""
    error, slopes = np.zeros((tokens, width), np.float32), np.zeros((tokens, k), np.float32)
    return Pass(empty_codes(tokens, k), error, slopes, empty_entries(d_sae, tokens * k))


def block_bounds(tokens: int, d_sae: int) -> list[tuple[int, int]]:
    """First token of each block of a batch, and the one behind its last."""
    rows = block_rows(tokens, d_sae)
    return [(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]


def decode_batch(
    base: NDArray[np.float32], sign: int, W_dec: NDArray[np.float32], part: Pass, workers: Workers
) -> NDArray[np.float64]:
    """Errors and slopes of a pass: `decode_block` over all tokens. Returns the sum of the errors, [width]."""
    tokens, width = base.shape
    blocks = block_bounds(tokens, len(W_dec))
    sums = np.empty((len(blocks), width), np.float32)

    def decode(block: int, _: int) -> None:
        decode_block(base, np.float32(sign), *blocks[block], W_dec, part.codes, part.error, part.slopes, sums[block])

    workers.each(len(sums), decode)
    return sums.sum(0, dtype=np.float64)
