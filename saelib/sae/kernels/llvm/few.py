"""The few largest entries of a short row, by taking the largest again and again, with the row in registers."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saelib.sae.kernels.llvm.largest import larger
from saelib.sae.kernels.llvm.vector import (
    FLOAT,
    INT32,
    INT64,
    INT_VECTOR,
    LANES,
    MASK_BITS,
    ZERO,
    call,
    constant,
    load,
    loop,
    pointer,
    splat,
)

SHORT_ROW = 128
"""Entries of such a row."""
FEW = 16
"""Up to so many are found faster this way than by a bar."""
_WIDE = ir.IntType(SHORT_ROW)


def _take_largest(_, row, start, k, found_values, found_indices, out_start):
    """Value and index of the k largest of row[start:start + SHORT_ROW], largest first, of equal ones the first.

    Returns how many of them are > 0; what is written behind those means nothing. NaN is skipped.
    """
    signature = types.int64(row, types.int64, types.int64, found_values, found_indices, types.int64)

    def generate(context, b, signature, values):
        row_base, value_base, index_base = (pointer(context, b, signature.args[i], values[i]) for i in (0, 3, 4))
        vectors = range(SHORT_ROW // LANES)

        def take(q, state):
            positive, *entries = state
            largest = call(b, f"llvm.vector.reduce.fmax.v{LANES}f32", FLOAT, _largest(b, entries), fastmath=("nnan",))
            index = _first_equal(b, entries, splat(b, largest))
            place = b.add(values[5], q)
            b.store(largest, b.gep(value_base, [place]))
            b.store(index, b.gep(index_base, [place]))
            is_positive = b.fcmp_ordered(">", largest, ir.Constant(FLOAT, 0.0))
            rest = [_without(b, entries[v], v, splat(b, index)) for v in vectors]
            return [b.add(positive, b.zext(is_positive, INT64)), *rest]

        entries = [larger(b, load(b, row_base, values[1], v), ZERO) for v in vectors]  # 0 for NaN, too
        return loop(b, values[2], [constant(0), *entries], take)[0]

    return signature, generate


def _largest(b: ir.IRBuilder, vectors):
    """Lane by lane, of a power of two vectors."""
    while len(vectors) > 1:
        half = len(vectors) // 2
        vectors = [larger(b, one, other) for one, other in zip(vectors[:half], vectors[half:], strict=True)]
    return vectors[0]


def _first_equal(b: ir.IRBuilder, entries, value):
    """Index of the first entry equal to `value`, int32; SHORT_ROW if there is none."""
    bits = ir.Constant(_WIDE, 0)
    for v, vector in enumerate(entries):
        equal = b.zext(b.bitcast(b.fcmp_ordered("==", vector, value), MASK_BITS), _WIDE)
        bits = b.or_(bits, b.shl(equal, ir.Constant(_WIDE, v * LANES)))
    zeros = call(b, f"llvm.cttz.i{SHORT_ROW}", _WIDE, bits, ir.Constant(ir.IntType(1), 0))
    return b.trunc(zeros, INT32)


def _without(b: ir.IRBuilder, vector, v: int, index):
    """Vector v of a row with the entry at `index` (in all lanes) set to 0."""
    lanes = ir.Constant(INT_VECTOR, list(range(v * LANES, (v + 1) * LANES)))
    return b.select(b.icmp_signed("==", lanes, index), ZERO, vector)


take_largest: Any = intrinsic(_take_largest)
