"""Abilities of this machine's CPU: whether the kernels run on it, and how wide its vectors are."""

import functools
from typing import Any

NO_NUMBA = "numba is not installed"


@functools.cache
def vector_lanes() -> int:
    """float32 values in one vector register of the CPU that numba generates code for; 0: not known.

    Reads numba's own view of it, so NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are respected.
    """
    from numba.core.registry import cpu_target

    context: Any = cpu_target.target_context
    triple, _, features = context.codegen().magic_tuple()
    present = set(features.split(","))
    if not triple.startswith("x86_64") or not {"+avx2", "+fma"} <= present:
        return 0
    return 16 if "+avx512f" in present else 8


@functools.cache
def integers_are_faster() -> bool:
    """True if the CPU multiplies and adds 16-bit integers faster than float32: AVX2, or AVX-512 with VNNI."""
    from numba.core.registry import cpu_target

    context: Any = cpu_target.target_context
    return vector_lanes() == 8 or "+avx512vnni" in context.codegen().magic_tuple()[2].split(",")


def why_unsupported() -> str | None:
    """The reason why the kernels cannot run here, as part of a sentence; None if they can."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return NO_NUMBA
    return None if vector_lanes() else "the processor is not an x86 with AVX2"
