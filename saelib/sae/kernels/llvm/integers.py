"""The innermost loop of a matrix product of 16-bit integers: twice as many products an instruction as of floats."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saelib.sae.kernels.llvm.gemm import PANEL, PANEL_VECTORS, SHORT, TALL
from saelib.sae.kernels.llvm.vector import (
    INT_VECTOR,
    LANES,
    VECTOR,
    call,
    constant,
    fma,
    load,
    loop,
    pointer,
    splat,
    store,
)

HALVES = ir.VectorType(ir.IntType(16), 2 * LANES)
MULTIPLY_PAIRS = "llvm.x86.avx512.pmaddw.d.512" if LANES == 16 else "llvm.x86.avx2.pmadd.wd"
"""Products of 16-bit integers, two neighbors added. LLVM merges it with the sum where the processor can."""


def _add_products(builder, factor, weights, total):
    pairs = builder.bitcast(factor, HALVES), builder.bitcast(weights, HALVES)
    return builder.add(call(builder, MULTIPLY_PAIRS, INT_VECTOR, *pairs), total)


def _rows_times_panel(rows: int) -> Any:
    @intrinsic
    def multiply(_, a, a_scales, row, panels, p_start, depth, scales, bias, column, out, out_stride):
        """out[row + i, column:][:PANEL] = bias + scale * sum over d < depth of a[row + i, d] * panel[d], for `rows` i.

        `a` [.., depth] and `panels` [.., depth, PANEL] are pairs of 16-bit integers, stored as int32; scale is
        a_scales[row + i] * scales[column:][:PANEL]. Rows of `out` lie `out_stride` apart.
        """
        integer = types.int64
        factors, product = (a, a_scales, integer, panels, integer, integer), (scales, bias, integer, out, integer)
        signature = types.void(*factors, *product)

        def generate(context, b, signature, values):
            a_base, a_scales, p_base, scale_base, bias_base, out_base = (
                pointer(context, b, signature.args[i], values[i]) for i in (0, 1, 3, 6, 7, 9)
            )
            row, p_start, depth, column, out_stride = (values[i] for i in (2, 4, 5, 8, 10))
            places = [b.add(row, constant(i)) for i in range(rows)]
            row_bases = [b.gep(a_base, [b.mul(place, depth)]) for place in places]

            def one_pair(d, sums):
                place = b.add(p_start, b.mul(d, constant(PANEL)))
                weights = [load(b, p_base, place, v, INT_VECTOR) for v in range(PANEL_VECTORS)]
                new = []
                for i in range(rows):
                    factor = splat(b, b.load(b.gep(row_bases[i], [d])))
                    new += [
                        _add_products(b, factor, weights[v], sums[i * PANEL_VECTORS + v]) for v in range(PANEL_VECTORS)
                    ]
                return new

            sums = loop(b, depth, [ir.Constant(INT_VECTOR, [0] * LANES)] * (rows * PANEL_VECTORS), one_pair)
            for v in range(PANEL_VECTORS):
                scale, first = load(b, scale_base, column, v), load(b, bias_base, column, v)
                for i, place in enumerate(places):
                    row_scale = splat(b, b.load(b.gep(a_scales, [place])))
                    total = b.sitofp(sums[i * PANEL_VECTORS + v], VECTOR)
                    value = fma(b, total, b.fmul(row_scale, scale), first)
                    store(b, value, out_base, b.add(b.mul(place, out_stride), column), v)
            return context.get_dummy_value()

        return signature, generate

    return multiply


multiply_tall, multiply_short, multiply_one = (_rows_times_panel(rows) for rows in (TALL, SHORT, 1))
