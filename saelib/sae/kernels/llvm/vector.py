"""Building blocks for loops written as LLVM vector instructions.

A compiler decides on its own how many accumulators of a loop stay in registers, and for matrix products and for sums of
rows picked by an index it decides badly. The files `ir_*.py` therefore spell those few loops out, through
`numba.extending.intrinsic`; everything else is ordinary numba. All pointers are to float32 or int32; all positions and
lengths count elements, not bytes.
"""

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import cgutils

from saelib.sae.kernels.cpu import vector_lanes

LANES = vector_lanes()
FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
INT_VECTOR = ir.VectorType(INT32, LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)
MASK_BITS = ir.IntType(LANES)
ZERO = ir.Constant(VECTOR, [0.0] * LANES)


def constant(value: int) -> ir.Constant:
    """An int64."""
    return ir.Constant(INT64, value)


def pointer(context, builder, array_type, array):
    """Pointer to the first element of a contiguous array."""
    return context.make_array(array_type)(context, builder, array).data


def load(builder, base, position, vector: int = 0, kind=VECTOR):
    """LANES floats or, as an INT_VECTOR, integers from `position`, `vector` registers further on."""
    place = builder.gep(base, [builder.add(position, constant(vector * LANES))])
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=4)


def store(builder, value, base, position, vector: int = 0) -> None:
    """The opposite of `load`; for float and int32 vectors."""
    place = builder.gep(base, [builder.add(position, constant(vector * LANES))])
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=4)


def splat(builder, scalar):
    """A vector that holds `scalar` in every lane."""
    kind = ir.VectorType(scalar.type, LANES)
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(INT32, 0))
    return builder.shuffle_vector(single, ir.Constant(kind, ir.Undefined), ir.Constant(INT_VECTOR, [0] * LANES))


def fma(builder, a, b, c):
    """a * b + c, rounded once (every processor the kernels run on has the instruction).

    Not `llvm.fma`: LLVM counts that as cheaper, unrolls the loops around it, and then runs out of registers.
    """
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def call(builder, name: str, result, *arguments, fastmath: tuple[str, ...] = ()):
    """An intrinsic function of LLVM."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments, fastmath=fastmath)


def loop(builder, count, start: Sequence, body: Callable) -> list:
    """Writes the loop `for i in range(count): values = body(i, values)` and returns the last values, in registers."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(INT64)
    i.add_incoming(constant(0), before)
    values = [builder.phi(value.type) for value in start]
    for value, first in zip(values, start, strict=True):
        value.add_incoming(first, before)
    builder.cbranch(builder.icmp_signed("<", i, count), inside, after)
    builder.position_at_end(inside)
    following = body(i, values)
    i.add_incoming(builder.add(i, constant(1)), builder.block)
    for value, new in zip(values, following, strict=True):
        value.add_incoming(new, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return values
