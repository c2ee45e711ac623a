"""Selection from the pre-activations of a tile of tokens: each latent is a row, each token a vector lane."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saelib.sae.kernels.llvm.gemm import PANEL, PANEL_VECTORS
from saelib.sae.kernels.llvm.largest import larger
from saelib.sae.kernels.llvm.vector import (
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
    store,
)

TILE = PANEL
"""Tokens of a tile: the columns that `multiply_tall` computes together."""
MANY, SOME = (8, 4) if LANES == 16 else (4, 2)
"""Values of a column that are taken in one pass; MANY fill the registers."""
MASKS = ir.VectorType(MASK_BITS, LANES)


def _take_from_columns(count: int) -> Any:
    @intrinsic
    def take(_, source, rows, rest, bars):
        """Takes the `count` largest entries > 0 out of each column of source [rows, TILE], and writes the others.

        Args:
            source: float32; NaN is never taken.
            rows: Number of rows.
            rest: float32, as large, may be `source`: what is left of each column, in another order.
            bars: float32 [TILE]; the smallest entry that was taken; 0 if there were fewer than `count`.
        """
        signature = types.void(source, types.int64, rest, bars)

        def generate(context, b, signature, values):
            source_base, rest_base, bar_base = (pointer(context, b, signature.args[i], values[i]) for i in (0, 2, 3))

            def one_row(j, taken):
                place, new = b.mul(j, constant(TILE)), []
                for v in range(PANEL_VECTORS):
                    entry = load(b, source_base, place, v)
                    for held in taken[v * count :][:count]:
                        new.append(larger(b, entry, held))
                        entry = b.select(b.fcmp_ordered(">", entry, held), held, entry)
                    store(b, entry, rest_base, place, v)
                return new

            taken = loop(b, values[1], [ZERO] * (PANEL_VECTORS * count), one_row)
            for v in range(PANEL_VECTORS):
                store(b, taken[(v + 1) * count - 1], bar_base, constant(0), v)
            return context.get_dummy_value()

        return signature, generate

    return take


def _mark_reached(_, hidden, rows, bars, masks, stride, positive):
    """Notes for each row of hidden [rows, TILE] which of its tokens reach their bars [TILE], and if one is positive.

    Args:
        hidden: float32.
        rows: Number of rows.
        bars: float32 [TILE], > 0.
        masks: Integers of LANES bits, [PANEL_VECTORS, stride]; bit i of entry [v, j] is token v * LANES + i of row j.
        stride: Length of a row of `masks`.
        positive: uint8 [at least rows]; set to 1 for rows with an entry > 0, otherwise left alone.
    """
    signature = types.void(hidden, types.int64, bars, masks, types.int64, positive)

    def generate(context, b, signature, values):
        hidden_base, bar_base, mask_base, positive_base = (
            pointer(context, b, signature.args[i], values[i]) for i in (0, 2, 3, 5)
        )
        own_bars = [load(b, bar_base, constant(0), v) for v in range(PANEL_VECTORS)]
        byte = ir.IntType(8)

        def one_row(j, state):
            some = ir.Constant(MASK_BITS, 0)
            for v in range(PANEL_VECTORS):
                entries = load(b, hidden_base, b.mul(j, constant(TILE)), v)
                reached = b.bitcast(b.fcmp_ordered(">=", entries, own_bars[v]), MASK_BITS)
                b.store(reached, b.gep(mask_base, [b.add(b.mul(values[4], constant(v)), j)]))
                some = b.or_(some, b.bitcast(b.fcmp_ordered(">", entries, ZERO), MASK_BITS))
            place = b.gep(positive_base, [j])
            is_positive = b.zext(b.icmp_unsigned("!=", some, ir.Constant(MASK_BITS, 0)), byte)
            b.store(b.or_(b.load(place), is_positive), place)
            return state

        loop(b, values[1], [], one_row)
        return context.get_dummy_value()

    return signature, generate


def _rows_with_bit(_, masks, start, length, lane, found):
    """Writes the numbers of the entries of masks[start:start + length] that have bit `lane`; returns how many.

    `length` is a multiple of LANES; `found` int32 holds length + LANES.
    """
    signature = types.int64(masks, types.int64, types.int64, types.int64, found)

    def generate(context, b, signature, values):
        mask_base, found_base = (pointer(context, b, signature.args[i], values[i]) for i in (0, 4))
        bit = splat(b, b.shl(ir.Constant(MASK_BITS, 1), b.trunc(values[3], MASK_BITS)))
        step, none = ir.Constant(INT_VECTOR, [LANES] * LANES), ir.Constant(MASKS, [0] * LANES)

        def one_vector(i, state):
            count, numbers = state
            own = load(b, mask_base, b.add(values[1], b.mul(i, constant(LANES))), kind=MASKS)
            has = b.icmp_unsigned("!=", b.and_(own, bit), none)
            rest = ir.Constant(INT_VECTOR, ir.Undefined)
            packed = call(b, f"llvm.experimental.vector.compress.v{LANES}i32", INT_VECTOR, numbers, has, rest)
            store(b, packed, found_base, count)
            more = call(b, f"llvm.ctpop.i{LANES}", MASK_BITS, b.bitcast(has, MASK_BITS))
            return [b.add(count, b.zext(more, INT64)), b.add(numbers, step)]

        first = ir.Constant(INT_VECTOR, list(range(LANES)))
        return loop(b, b.sdiv(values[2], constant(LANES)), [constant(0), first], one_vector)[0]

    return signature, generate


take_many, take_some, take_one = (_take_from_columns(count) for count in (MANY, SOME, 1))
mark_reached: Any = intrinsic(_mark_reached)
rows_with_bit: Any = intrinsic(_rows_with_bit)
