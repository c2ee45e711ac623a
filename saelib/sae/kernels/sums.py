"""Gradients of a latent's weights: sums over errors and inputs of the tokens that selected it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import kernel
from saelib.sae.kernels.entries import CodesByLatent
from saelib.sae.kernels.llvm.gather import SLICE, sum_slices
from saelib.sae.kernels.threads import Workers


class WeightGradients(NamedTuple):
    """Sums for the latents that have entries; the rows of others mean nothing."""

    W_dec: NDArray[np.float32]
    """[slices, d_sae, SLICE], column by column of slices; sum over tokens of code * error."""
    W_enc: NDArray[np.float32]
    """The same with code_grad * input."""


def empty_weight_gradients(d_sae: int, width: int) -> WeightGradients:
    """Zeros."""
    shape = -(-width // SLICE), d_sae, SLICE
    return WeightGradients(np.zeros(shape, np.float32), np.zeros(shape, np.float32))


def sum_entries(
    entries: CodesByLatent,
    error: NDArray[np.float32],
    centered: NDArray[np.float32],
    sums: WeightGradients,
    workers: Workers,
) -> None:
    """Writes the sums of all latents that have entries; `error` and `centered` are [tokens, width].

    A slice of columns at a time, copied together: the rows of all tokens stay in the first-level cache, though each is
    read for many latents.
    """
    tokens, slices = len(error), len(sums.W_dec)
    narrow = np.zeros((workers.count, tokens, SLICE), np.float32)

    def work(task: int, worker: int) -> None:
        i = task // 2
        if task % 2:
            sum_columns(entries, entries.code_grads, centered, i * SLICE, narrow[worker], sums.W_enc[i])
        else:
            sum_columns(entries, entries.codes, error, i * SLICE, narrow[worker], sums.W_dec[i])

    workers.each(2 * slices, work)


@kernel
def sum_columns(
    entries: CodesByLatent,
    weights: NDArray[np.float32],
    rows: NDArray[np.float32],
    first: int,
    narrow: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """out[j] = sum over entries of latent j of weight * rows[token, first:][:SLICE].

    Args:
        entries: Of a batch.
        weights: One for each entry.
        rows: [tokens, width]
        first: First column.
        narrow: Buffer, [tokens, SLICE].
        out: [d_sae, SLICE], written for latents that have entries.
    """
    if first + SLICE <= rows.shape[1]:
        for token in range(len(rows)):
            for d in range(SLICE):  # a number known to the compiler: seven times as fast
                narrow[token, d] = rows[token, first + d]
    else:
        narrow[:, : rows.shape[1] - first] = rows[:, first:]
    for j in range(len(entries.starts) - 1):
        start, stop = entries.starts[j], entries.starts[j + 1]
        if stop > start:
            sum_slices(out, j * SLICE, entries.tokens, weights, start, stop, narrow)
