"""Sums of rows picked by an index, accumulated in registers: decoding, and the gradients of a latent's weights."""

import functools
from typing import Any

from numba import types
from numba.extending import intrinsic

from saelib.sae.kernels.llvm.vector import INT64, LANES, ZERO, constant, fma, load, loop, pointer, splat, store

WIDE, MIDDLE = (16, 4) if LANES == 16 else (8, 2)
"""Vectors of a row that are summed together; what remains is done MIDDLE and then one at a time."""
SLICE = 32
"""Columns of a narrow row that is summed at once."""
SIDE_BY_SIDE = 8 // (SLICE // LANES)
"""Sums of narrow rows that are made at once, so that one need not wait for the last addition."""


def _weighted_rows(vectors: int) -> Any:
    @intrinsic
    def add_rows(_, out, out_start, indices, weights, start, count, rows, stride, column):
        """out[out_start:][:vectors * LANES] += sum over q of weights[q] * rows[indices[q], column:][:vectors * LANES].

        q runs over `count` entries from `start`, in order; rows lie `stride` apart.
        """
        integer = types.int64
        signature = types.void(out, integer, indices, weights, integer, integer, rows, integer, integer)

        def generate(context, b, signature, values):
            out_base, index_base, weight_base, row_base = (
                pointer(context, b, signature.args[i], values[i]) for i in (0, 2, 3, 6)
            )
            out_start, start, count, stride, column = (values[i] for i in (1, 4, 5, 7, 8))

            def one_row(q, sums):
                entry = b.add(start, q)
                index = b.sext(b.load(b.gep(index_base, [entry])), INT64)
                weight = splat(b, b.load(b.gep(weight_base, [entry])))
                place = b.add(b.mul(index, stride), column)
                return [fma(b, weight, load(b, row_base, place, v), sums[v]) for v in range(vectors)]

            sums = loop(b, count, [load(b, out_base, out_start, v) for v in range(vectors)], one_row)
            for v in range(vectors):
                store(b, sums[v], out_base, out_start, v)
            return context.get_dummy_value()

        return signature, generate

    return add_rows


def _sum_slices(_, out, out_start, tokens, weights, start, stop, rows):
    """out[out_start:][:SLICE] = sum over q from `start` to `stop` of weights[q] * rows[tokens[q]]; rows [.., SLICE]."""
    integer, vectors = types.int64, SLICE // LANES
    signature = types.void(out, integer, tokens, weights, integer, integer, rows)

    def generate(context, b, signature, values):
        out_base, token_base, weight_base, row_base = (
            pointer(context, b, signature.args[i], values[i]) for i in (0, 2, 3, 6)
        )
        out_start, start, stop = (values[i] for i in (1, 4, 5))
        rounds = b.sdiv(b.sub(stop, start), constant(SIDE_BY_SIDE))
        rest = b.add(start, b.mul(rounds, constant(SIDE_BY_SIDE)))

        def add(entry, sums):
            place = b.mul(b.sext(b.load(b.gep(token_base, [entry])), INT64), constant(SLICE))
            weight = splat(b, b.load(b.gep(weight_base, [entry])))
            return [fma(b, weight, load(b, row_base, place, v), sums[v]) for v in range(vectors)]

        def add_several(i, sums):
            first = b.add(start, b.mul(i, constant(SIDE_BY_SIDE)))
            several = (add(b.add(first, constant(u)), sums[u * vectors :][:vectors]) for u in range(SIDE_BY_SIDE))
            return [total for of_one in several for total in of_one]

        sums = loop(b, rounds, [ZERO] * (SIDE_BY_SIDE * vectors), add_several)
        totals = [functools.reduce(b.fadd, sums[v::vectors]) for v in range(vectors)]
        totals = loop(b, b.sub(stop, rest), totals, lambda i, sums: add(b.add(rest, i), sums))
        for v in range(vectors):
            store(b, totals[v], out_base, out_start, v)
        return context.get_dummy_value()

    return signature, generate


add_rows_wide, add_rows_middle, add_rows_narrow = (_weighted_rows(n) for n in (WIDE, MIDDLE, 1))
sum_slices: Any = intrinsic(_sum_slices)
