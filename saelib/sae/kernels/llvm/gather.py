"""Sums of rows picked by an index, accumulated in registers: decoding, and the gradients of a latent's weights."""

import functools
from typing import Any

from numba import types
from numba.extending import intrinsic

from saelib.sae.kernels.llvm.vector import INT64, LANES, ZERO, constant, fma, load, loop, pointer, splat, store

WIDE, MIDDLE = (16, 4) if LANES == 16 else (8, 2)
"""Vectors of a row that are summed together; what remains is done MIDDLE and then one at a time."""
PAIR_WIDE, PAIR_MIDDLE = (8, 4) if LANES == 16 else (4, 2)
"""The same of two rows at once."""
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


def _weighted_row_pairs(vectors: int) -> Any:
    @intrinsic
    def sum_rows(
        _, first_out, second_out, column, tokens, codes, code_grads, start, stop, first_rows, second_rows, stride
    ):
        """first_out = sum over q of codes[q] * first_rows[tokens[q]]; second_out: of code_grads and second_rows.

        Of `vectors * LANES` columns from `column`; q runs from `start` to `stop`, in order; rows lie `stride` apart.
        """
        integer = types.int64
        outs, entries = (first_out, second_out, integer), (tokens, codes, code_grads, integer, integer)
        signature = types.void(*outs, *entries, first_rows, second_rows, integer)

        def generate(context, b, signature, values):
            first_out, second_out, tokens, codes, code_grads, first_rows, second_rows = (
                pointer(context, b, signature.args[i], values[i]) for i in (0, 1, 3, 4, 5, 8, 9)
            )
            column, start, stop, stride = (values[i] for i in (2, 6, 7, 10))

            def one_entry(q, sums):
                entry = b.add(start, q)
                token = b.sext(b.load(b.gep(tokens, [entry])), INT64)
                code, slope = (splat(b, b.load(b.gep(base, [entry]))) for base in (codes, code_grads))
                place = b.add(b.mul(token, stride), column)
                first = [fma(b, code, load(b, first_rows, place, v), sums[v]) for v in range(vectors)]
                second = [fma(b, slope, load(b, second_rows, place, v), sums[vectors + v]) for v in range(vectors)]
                return first + second

            sums = loop(b, b.sub(stop, start), [ZERO] * (2 * vectors), one_entry)
            for v in range(vectors):
                store(b, sums[v], first_out, column, v)
                store(b, sums[vectors + v], second_out, column, v)
            return context.get_dummy_value()

        return signature, generate

    return sum_rows


add_rows_wide, add_rows_middle, add_rows_narrow = (_weighted_rows(n) for n in (WIDE, MIDDLE, 1))
sum_slices: Any = intrinsic(_sum_slices)
sum_pairs_wide, sum_pairs_middle, sum_pairs_narrow = (_weighted_row_pairs(n) for n in (PAIR_WIDE, PAIR_MIDDLE, 1))
