"""The device that a diagnosis computes on, and clear words if its memory runs out."""

import re
from contextlib import AbstractContextManager, nullcontext

from saelib.devices.cards import count_cards
from saelib.errors import UserError


def usable_device(wanted: str) -> str:
    """Returns torch's name of the device for statistics and counts, which need numbers of 64 bits.

    torch is imported only if this machine has a GPU or one is asked for.

    Args:
        wanted: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.

    Raises:
        UserError: If it is none of these, or there is no such GPU.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wanted):
        raise UserError(f"device '{wanted}': should be auto, cpu, cuda, or a certain GPU such as cuda:1")
    if wanted == "cpu":
        return "cpu"
    from saelib.sources.base import torch_device
    from saelib.sources.precision import pick_device

    if wanted != "auto":
        return str(torch_device(wanted))
    try:
        return pick_device(float64=True) if count_cards() else "cpu"
    except ModuleNotFoundError:  # a diagnosis of a file does not need torch
        return "cpu"


def explained(name: str, d_in: int, device: str) -> AbstractContextManager[None]:
    """Raises `UserError` if the memory of a GPU runs out in the `with` block."""
    if device == "cpu":
        return nullcontext()
    from saelib.devices.memory import explained_shortage, gigabytes

    return explained_shortage(
        lambda usable: (
            f"{name}: statistics and counts of {d_in:,} dimensions need more memory than the {gigabytes(usable)} that "
            f"are free on {device}; the device cpu has no such limit"
        )
    )
