"""Sums of picked rows over all columns, by pieces that fit the registers."""

from saelib.sae.kernels.compiled import inner, inner_sum
from saelib.sae.kernels.llvm.gather import (
    MIDDLE,
    PAIR_MIDDLE,
    PAIR_WIDE,
    WIDE,
    add_rows_middle,
    add_rows_narrow,
    add_rows_wide,
    sum_pairs_middle,
    sum_pairs_narrow,
    sum_pairs_wide,
)
from saelib.sae.kernels.llvm.vector import LANES

WIDE_COLUMNS, MIDDLE_COLUMNS = WIDE * LANES, MIDDLE * LANES
WIDE_PAIR, MIDDLE_PAIR = PAIR_WIDE * LANES, PAIR_MIDDLE * LANES


@inner
def add_weighted_rows(out, row, indices, weights, start, count, rows):
    """out[row] += sum over the `count` entries q from `start` of weights[q] * rows[indices[q]].

    Args:
        out: float32 [.., width], contiguous like `rows`; width is a multiple of LANES.
        row: Row of `out`.
        indices: int32, flat.
        weights: float32, flat.
        start: First entry.
        count: Number of entries.
        rows: float32 [.., width]
    """
    width = rows.shape[1]
    place, column = row * width, 0
    while column + WIDE_COLUMNS <= width:
        add_rows_wide(out, place + column, indices, weights, start, count, rows, width, column)
        column += WIDE_COLUMNS
    while column + MIDDLE_COLUMNS <= width:
        add_rows_middle(out, place + column, indices, weights, start, count, rows, width, column)
        column += MIDDLE_COLUMNS
    while column < width:
        add_rows_narrow(out, place + column, indices, weights, start, count, rows, width, column)
        column += LANES


@inner
def sum_row_pairs(first_out, second_out, entries, start, stop, first_rows, second_rows):
    """first_out = sum of code * first_rows[token] and second_out = sum of slope * second_rows[token].

    Args:
        first_out: float32 [width], contiguous like the rows; width is a multiple of LANES.
        second_out: The same.
        entries: `CodesByLatent`.
        start: First entry.
        stop: Behind the last entry.
        first_rows: float32 [tokens, width]
        second_rows: The same.
    """
    width = first_rows.shape[1]
    tokens, codes, code_grads = entries.tokens, entries.codes, entries.code_grads
    a, b, x, y = first_out, second_out, first_rows, second_rows
    column = 0
    while column + WIDE_PAIR <= width:
        sum_pairs_wide(a, b, column, tokens, codes, code_grads, start, stop, x, y, width)
        column += WIDE_PAIR
    while column + MIDDLE_PAIR <= width:
        sum_pairs_middle(a, b, column, tokens, codes, code_grads, start, stop, x, y, width)
        column += MIDDLE_PAIR
    while column < width:
        sum_pairs_narrow(a, b, column, tokens, codes, code_grads, start, stop, x, y, width)
        column += LANES


@inner_sum
def dot(a, i, b, j):
    """Inner product of row i of `a` and row j of `b`."""
    total = a.dtype.type(0)
    x, y = a[i], b[j]
    for d in range(a.shape[1]):
        total += x[d] * y[d]
    return total
