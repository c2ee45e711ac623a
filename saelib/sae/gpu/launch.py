"""The start of kernels, and sizes of what a program (one instance of a kernel) holds in its registers."""

from typing import Any

WIDEST = 8192
"""Values of a row that one program holds: in 16 warps, 16 registers of each thread."""

WIDEST_ROW = 4096
"""Values of a latent's row, of whose weights, gradients and moments one program holds several, without spills."""
ROWS = 4
"""Other rows that such a program reads at a time."""


def power_of_two(value: int) -> int:
    """The smallest power of two that is not below `value`; Triton's ranges have such lengths."""
    return 1 << (value - 1).bit_length()


def warps(values: int) -> int:
    """Warps, 4 to 16, of a program that holds a power of two of values of a row: each holds at most 512."""
    return min(16, max(4, values // 512))


def launch(kernel: Any, programs: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Starts a Triton kernel in a number of programs along each axis; `constants` may include `num_warps`."""
    kernel[programs](*arguments, **constants)
