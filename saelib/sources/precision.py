"""The device that torch computes on, and exact float32 there: no factors rounded to TF32 or bfloat16."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

PLACES = ("", "cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
"""Parts of `torch.backends` that have their own switch `fp32_precision` (from torch 2.9 on)."""


def pick_device(*, float64: bool = False) -> str:
    """Returns "cuda" if there is such a device, otherwise Apple's "mps", otherwise "cpu".

    Apple's device is left out if `float64` is needed, which it does not have.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and not float64 else "cpu"


@contextmanager
def exact_float32() -> Iterator[None]:
    """Stops torch from rounding the factors of float32 products and convolutions, and restores its settings afterwards.

    By default, torch lets cuDNN round them in convolutions, and code of a checkpoint or of the user may have allowed it
    for products too. Neither would be part of a result's key. The function is also a decorator.
    """
    import torch

    backends = torch.backends
    switches = [reduce(getattr, place.split("."), backends) if place else backends for place in PLACES]
    before = [getattr(switch, "fp32_precision", None) for switch in switches]
    convolutions = _said(lambda: backends.cudnn.allow_tf32)
    products = _said(torch.get_float32_matmul_precision)
    _set(switches, [precision and "ieee" for precision in before])
    backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if convolutions is not None:
            backends.cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        _set(switches, before)


def _said(read: Callable[[], Any]) -> Any:
    """Reads a setting by torch's older interface; None if that refuses because the newer switches have been set."""
    try:
        return read()
    except RuntimeError:
        return None


def _set(switches: list[Any], wanted: list[str | None]) -> None:
    for switch, precision in zip(switches, wanted, strict=True):
        if precision is not None and switch.fp32_precision != precision:
            switch.fp32_precision = precision
