"""One step of Adam on values that a program holds in its registers."""

import triton
import triton.language as tl


@triton.jit
def adam(
    w, gradient, m_at, v_at, inside, rate, correction, beta1, fresh1, beta2, fresh2, epsilon,
    SPARSE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Gives the moved weights, and writes the moments at `m_at` and `v_at`.

    With SPARSE, only what has a gradient moves: a value, or with WHOLE all values if one of them has.
    """
    m = tl.load(m_at, mask=inside, other=0.0)
    v = tl.load(v_at, mask=inside, other=0.0)
    new_m = beta1 * m + fresh1 * gradient
    new_v = beta2 * v + fresh2 * gradient * gradient
    moved = w - rate * new_m / (tl.sqrt(new_v) * correction + epsilon)
    if SPARSE:
        moves = gradient != 0
        if WHOLE:
            moves = tl.max(moves.to(tl.int32), 0) > 0
        moved, new_m, new_v = tl.where(moves, moved, w), tl.where(moves, new_m, m), tl.where(moves, new_v, v)
    tl.store(m_at, new_m, mask=inside)
    tl.store(v_at, new_v, mask=inside)
    return moved
