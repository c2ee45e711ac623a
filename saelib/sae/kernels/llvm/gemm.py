"""The innermost loop of the matrix product: a few rows times one panel, accumulated in registers."""

from typing import Any

from numba import types
from numba.extending import intrinsic

from saelib.sae.kernels.llvm.vector import LANES, constant, fma, load, loop, pointer, splat, store

PANEL_VECTORS = 2
PANEL = PANEL_VECTORS * LANES
"""Columns of the product that are made together."""
TALL, SHORT = (12, 4) if LANES == 16 else (6, 2)
"""Rows made together: TALL * PANEL_VECTORS accumulators fill the registers."""


def _rows_times_panel(rows: int) -> Any:
    @intrinsic
    def multiply(_, a, a_start, a_stride, panels, p_start, depth, bias, bias_start, out, out_start, out_stride):
        """out[i, :PANEL] = bias + sum over d < depth of a[i, d] * panel[d, :PANEL], for `rows` rows i.

        Rows of `a` and `out` lie `a_stride` and `out_stride` apart; `panels` is [.., depth, PANEL].
        """
        integer = types.int64
        arguments = (a, integer, integer, panels, integer, integer, bias, integer, out, integer, integer)
        signature = types.void(*arguments)

        def generate(context, b, signature, values):
            a_base, p_base, bias_base, out_base = (
                pointer(context, b, signature.args[i], values[i]) for i in (0, 3, 6, 8)
            )
            a_start, a_stride, p_start, depth, bias_start, out_start, out_stride = (
                values[i] for i in (1, 2, 4, 5, 7, 9, 10)
            )
            row_bases = [b.gep(a_base, [b.add(a_start, b.mul(a_stride, constant(i)))]) for i in range(rows)]

            def one_column(d, sums):
                place = b.add(p_start, b.mul(d, constant(PANEL)))
                weights = [load(b, p_base, place, v) for v in range(PANEL_VECTORS)]
                new = []
                for i in range(rows):
                    factor = splat(b, b.load(b.gep(row_bases[i], [d])))
                    new += [fma(b, factor, weights[v], sums[i * PANEL_VECTORS + v]) for v in range(PANEL_VECTORS)]
                return new

            start = [load(b, bias_base, bias_start, v) for v in range(PANEL_VECTORS)] * rows
            sums = loop(b, depth, start, one_column)
            for i in range(rows):
                place = b.add(out_start, b.mul(out_stride, constant(i)))
                for v in range(PANEL_VECTORS):
                    store(b, sums[i * PANEL_VECTORS + v], out_base, place, v)
            return context.get_dummy_value()

        return signature, generate

    return multiply


multiply_tall, multiply_short, multiply_one = (_rows_times_panel(rows) for rows in (TALL, SHORT, 1))
