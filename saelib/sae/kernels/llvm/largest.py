"""The largest entries of interleaved groups of a row, held in registers."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saelib.sae.kernels.llvm.vector import LANES, ZERO, load, loop, pointer, store

GROUPS = 128
"""Made together; a multiple of LANES."""


def _largest_of_groups(_, row, start, stride, rounds, largest, out_start):
    """largest[out_start + g] = max(0, max over r < rounds of row[start + r * stride + g]), for g < GROUPS.

    NaN is skipped.
    """
    integer = types.int64
    signature = types.void(row, integer, integer, integer, largest, integer)

    def generate(context, b, signature, values):
        row_base, out_base = (pointer(context, b, signature.args[i], values[i]) for i in (0, 4))
        start, stride, rounds, out_start = (values[i] for i in (1, 2, 3, 5))
        vectors = GROUPS // LANES

        def one_round(r, best):
            place = b.add(start, b.mul(r, stride))
            return [larger(b, load(b, row_base, place, v), best[v]) for v in range(vectors)]

        best = loop(b, rounds, [ZERO] * vectors, one_round)
        for v in range(vectors):
            store(b, best[v], out_base, out_start, v)
        return context.get_dummy_value()

    return signature, generate


def larger(b: ir.IRBuilder, new, best):
    """Lane by lane; `best` where `new` is NaN."""
    return b.select(b.fcmp_ordered(">", new, best), new, best)


largest_of_groups: Any = intrinsic(_largest_of_groups)
