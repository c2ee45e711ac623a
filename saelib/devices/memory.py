"""Turns an exhausted GPU memory into one sentence that says which sizes would fit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from saelib.errors import UserError


class DeviceShortage(UserError):
    """The error for a GPU whose memory ran out."""


USABLE = 0.9
"""Share of a GPU's memory that a job can fill; the rest is CUDA's own and gaps between tensors."""


@contextmanager
def explained_shortage(explain: Callable[[float], str]) -> Iterator[None]:
    """Raises `DeviceShortage`, a `UserError`, if torch runs out of GPU memory in the `with` block.

    Args:
        explain: Gives the message; it is called with the bytes of the GPU that this process can fill.
    """
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise DeviceShortage(explain(usable_bytes())) from None


def gigabytes(size: float) -> str:
    """Formats bytes: '79.2 GB'."""
    return f"{size / 1e9:,.1f} GB"


def usable_bytes() -> float:
    """Computes the bytes that this process has on the current GPU and those that nobody has."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    free, _ = torch.cuda.mem_get_info()
    return USABLE * (free + torch.cuda.memory_reserved())


def spare_bytes() -> float:
    """Computes the bytes of the current GPU that stay free if this process never needs more than it did at its peak."""
    import torch

    return max(0.0, usable_bytes() - torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0.0
