"""AuxK: dead latents fit what the living ones left over (Gao et al. 2024, appendix A.2)."""

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import inner_sum, kernel
from saelib.sae.kernels.forward import Codes, DeadPreActivations
from saelib.sae.kernels.passes import block_bounds
from saelib.sae.kernels.select import row_length, select_buffers, select_row
from saelib.sae.kernels.threads import Workers


def select_helpers(kept: DeadPreActivations, columns: NDArray[np.int32], codes: Codes, workers: Workers) -> None:
    """Codes from some of the kept latents alone.

    Args:
        kept: Pre-activations of the batch.
        columns: int32; which columns of `kept.hidden` may be selected.
        codes: Written, with k at most len(columns).
        workers: Who does it.
    """
    tokens, k = codes.values.shape
    blocks = block_bounds(tokens, len(kept.latents))
    length = row_length(len(columns), k)
    own = [(np.full((1, length), -np.inf, np.float32), select_buffers(len(columns), k)) for _ in range(workers.count)]

    def select(block: int, worker: int) -> None:
        select_helpers_block(kept, columns, *blocks[block], codes, *own[worker])

    workers.each(len(blocks), select)


@kernel
def select_helpers_block(kept, columns, start, stop, codes, row, buffers):
    """`select_helpers` for tokens `start` to `stop`; `row` [1, length] is -inf beyond len(columns)."""
    length = row.shape[1]
    for token in range(start, stop):
        hidden = kept.hidden[token]
        for i in range(len(columns)):
            row[0, i] = hidden[columns[i]]
        count = select_row(row, 0, length, buffers, codes.values, codes.indices, token)
        for q in range(count):
            codes.indices[token, q] = kept.latents[columns[codes.indices[token, q]]]
        codes.counts[token] = count


def squared_spread(errors: NDArray[np.float32], mean: NDArray[np.float64], workers: Workers) -> float:
    """Sum over tokens of ||error - mean||^2, for errors [tokens, width]."""
    center, blocks = mean.astype(np.float32), block_bounds(*errors.shape)
    spreads = np.empty(len(blocks))

    def measure(block: int, _: int) -> None:
        spreads[block] = block_spread(errors, *blocks[block], center)

    workers.each(len(spreads), measure)
    return float(spreads.sum())


@kernel
def block_spread(errors, start, stop, center):
    """`squared_spread` of tokens `start` to `stop`."""
    total = 0.0
    for token in range(start, stop):
        total += _squared_distance(errors[token], center)
    return total


@inner_sum
def _squared_distance(row, center):
    total = np.float32(0)
    for d in range(len(row)):
        difference = row[d] - center[d]
        total += difference * difference
    return total
