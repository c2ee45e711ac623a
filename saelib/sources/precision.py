"""float32 that is float32: neither products nor convolutions are rounded to TF32 or bfloat16, whatever the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

PLACES = ("", "cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
"""Parts of `torch.backends` with a switch of their own, `fp32_precision`, which torch has from 2.9 on."""


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keeps torch, inside, from rounding the factors of float32 products and convolutions; restores it afterwards.

    torch lets cuDNN round them in convolutions unless it is told otherwise, and code of a checkpoint's or a user's may
    have switched that on for products too. Neither would be in a result's key. It also serves as a decorator.
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
    """What torch says by its older interface; None where it does not, because someone has set its newer switches."""
    try:
        return read()
    except RuntimeError:
        return None


def _set(switches: list[Any], wanted: list[str | None]) -> None:
    for switch, precision in zip(switches, wanted, strict=True):
        if precision is not None and switch.fp32_precision != precision:
            switch.fp32_precision = precision
