"""Runs of a batch through the SAE, block by block."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.entries import CodesByLatent, empty_codes_by_latent
from saelib.sae.kernels.forward import Codes, decode_block, empty_codes
from saelib.sae.kernels.gemm import block_rows
from saelib.sae.kernels.threads import Workers


class BatchCodes(NamedTuple):
    """Codes of a batch for one term of the loss, with errors and gradients."""

    codes: Codes
    error: NDArray[np.float32]
    """[tokens, width]"""
    code_grads: NDArray[np.float32]
    """[tokens, k]"""
    entries: CodesByLatent


def empty_batch_codes(tokens: int, width: int, k: int, d_sae: int) -> BatchCodes:
    """Codes of a batch with nothing selected."""
    error, code_grads = np.zeros((tokens, width), np.float32), np.zeros((tokens, k), np.float32)
    return BatchCodes(empty_codes(tokens, k), error, code_grads, empty_codes_by_latent(d_sae, tokens * k))


def block_bounds(tokens: int, d_sae: int) -> list[tuple[int, int]]:
    """First token of each block of a batch, and the one behind its last."""
    rows = block_rows(tokens, d_sae)
    return [(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]


def decode_batch(
    base: NDArray[np.float32], sign: int, W_dec: NDArray[np.float32], part: BatchCodes, workers: Workers
) -> NDArray[np.float64]:
    """Errors and code_grads of a pass: `decode_block` over all tokens. Returns the sum of the errors, [width]."""
    tokens, width = base.shape
    blocks = block_bounds(tokens, len(W_dec))
    sums = np.empty((len(blocks), width), np.float32)

    def decode(block: int, _: int) -> None:
        decode_block(
            base, np.float32(sign), *blocks[block], W_dec, part.codes, part.error, part.code_grads, sums[block]
        )

    workers.each(len(sums), decode)
    return sums.sum(0, dtype=np.float64)
