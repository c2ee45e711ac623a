"""The entries of a row that reach a bar, packed together in order."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saelib.sae.kernels.llvm.vector import (
    INT64,
    INT_VECTOR,
    LANES,
    MASK_BITS,
    VECTOR,
    call,
    constant,
    load,
    loop,
    pointer,
    splat,
    store,
)


def _compress_at_least(_, row, start, length, bar, found_indices, found_values):
    """Index and value of each entry of row[start:start + length] that is >= bar; returns how many there are.

    `length` is a multiple of LANES; the buffers hold length + LANES. NaN reaches no bar.
    """
    signature = types.int64(row, types.int64, types.int64, types.float32, found_indices, found_values)
    compress = "llvm.experimental.vector.compress"

    def generate(context, b, signature, values):
        row_base, index_base, value_base = (pointer(context, b, signature.args[i], values[i]) for i in (0, 4, 5))
        bar = splat(b, values[3])
        step = ir.Constant(INT_VECTOR, [LANES] * LANES)

        def one_vector(i, state):
            found, indices = state
            entries = load(b, row_base, b.add(values[1], b.mul(i, constant(LANES))))
            reached = b.fcmp_ordered(">=", entries, bar)
            bits = b.bitcast(reached, MASK_BITS)
            before = b.block
            some, after = b.append_basic_block("some"), b.append_basic_block("after")
            b.cbranch(b.icmp_unsigned("!=", bits, ir.Constant(MASK_BITS, 0)), some, after)
            b.position_at_end(some)
            rest, index_rest = ir.Constant(VECTOR, ir.Undefined), ir.Constant(INT_VECTOR, ir.Undefined)
            store(b, call(b, f"{compress}.v{LANES}f32", VECTOR, entries, reached, rest), value_base, found)
            store(b, call(b, f"{compress}.v{LANES}i32", INT_VECTOR, indices, reached, index_rest), index_base, found)
            more = b.add(found, b.zext(call(b, f"llvm.ctpop.i{LANES}", MASK_BITS, bits), INT64))
            b.branch(after)
            b.position_at_end(after)
            count = b.phi(INT64)
            count.add_incoming(found, before)
            count.add_incoming(more, some)
            return [count, b.add(indices, step)]

        first = ir.Constant(INT_VECTOR, list(range(LANES)))
        return loop(b, b.sdiv(values[2], constant(LANES)), [constant(0), first], one_vector)[0]

    return signature, generate


compress_at_least: Any = intrinsic(_compress_at_least)
