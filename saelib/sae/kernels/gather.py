"""Sums of picked rows over all columns, by pieces that fit the registers."""

from saelib.sae.kernels.compiled import inner, inner_sum
from saelib.sae.kernels.llvm.gather import MIDDLE, WIDE, add_rows_middle, add_rows_narrow, add_rows_wide
from saelib.sae.kernels.llvm.vector import LANES

WIDE_COLUMNS, MIDDLE_COLUMNS = WIDE * LANES, MIDDLE * LANES


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


@inner_sum
def dot(a, i, b, j):
    """Inner product of row i of `a` and row j of `b`."""
    total = a.dtype.type(0)
    x, y = a[i], b[j]
    for d in range(a.shape[1]):
        total += x[d] * y[d]
    return total
