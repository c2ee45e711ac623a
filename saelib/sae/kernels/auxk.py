"""AuxK: dead latents fit what the living ones left over (Gao et al. 2024, appendix A.2)."""

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import kernel
from saelib.sae.kernels.forward import Codes, EncodeBuffers, Kept, squared_distance
from saelib.sae.kernels.select import select_row


@kernel
def select_helpers(
    kept: Kept,
    columns: NDArray[np.int32],
    start: int,
    stop: int,
    codes: Codes,
    buffers: EncodeBuffers,
) -> None:
    """Codes of tokens `start` to `stop` from some of the kept latents alone.

    Args:
        kept: Pre-activations.
        columns: Which columns of `kept.hidden` may be selected.
        start: First token.
        stop: Behind the last.
        codes: Written, with k at most len(columns).
        buffers: Of this worker, for rows of at least len(columns).
    """
    row, k = buffers.hidden[0], codes.values.shape[1]
    row[len(columns) :] = -np.inf
    for token in range(start, stop):
        hidden = kept.hidden[token]
        for i in range(len(columns)):
            row[i] = hidden[columns[i]]
        values, indices = codes.values[token], codes.indices[token]
        count = select_row(buffers.hidden, 0, len(row), k, buffers.select, values, indices)
        for q in range(count):
            indices[q] = kept.latents[columns[indices[q]]]
        codes.counts[token] = count


@kernel
def spread(errors: NDArray[np.float32], start: int, stop: int, mean: NDArray[np.float32]) -> float:
    """Sum over tokens `start` to `stop` of ||error - mean||^2."""
    total = 0.0
    for token in range(start, stop):
        total += squared_distance(errors[token], mean)
    return float(total)
