"""Tensors from a file, checked before they become an SAE: the file may be damaged, hostile, or of another kind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from saelib.errors import UserError

Shapes = Mapping[str, tuple[str, ...]]
"""Each tensor's dimensions by name, such as ("d_sae", "d_in")."""


def check_tensors(tensors: Mapping[str, Tensor], shapes: Shapes, path: Path) -> dict[str, Tensor]:
    """The tensors as float32. Raises `UserError` unless they are those of `shapes`, agree in size and are finite."""
    missing, extra = sorted(set(shapes) - set(tensors)), sorted(map(str, set(tensors) - set(shapes)))
    if missing or extra:
        wrong = f"lacks {', '.join(missing)}" if missing else f"also holds {', '.join(extra[:5])}"
        raise UserError(f"{path}: {wrong}; should hold exactly {', '.join(shapes)}")
    sizes: dict[str, int] = {}
    for name, dimensions in shapes.items():
        _check_shape(name, tensors[name], dimensions, sizes, path)
    floats = {name: tensors[name].float() for name in shapes}
    for name, value in floats.items():
        if not value.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinity, or numbers too large for float32")
    return floats


def in_words(value: Any, none: str = "missing") -> str:
    """A value from a file, as a message quotes it: as JSON has it, shortened; `none` if there is none."""
    if value is None:
        return none
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, default=lambda _: "something else")
    return text if len(text) <= 60 else text[:57] + "..."


def check_k(k: Any, d_sae: int, path: Path) -> int:
    """Returns `k`. Raises `UserError` unless it is a number of latents that a token can have."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= d_sae:
        right = f"a whole number from 1 to the number of latents, {d_sae}"
        raise UserError(f"{path}: k is {in_words(k)}; should be {right}")
    return k


def _check_shape(name: str, value: Tensor, dimensions: tuple[str, ...], sizes: dict[str, int], path: Path) -> None:
    if not value.is_floating_point():
        held = str(value.dtype).removeprefix("torch.")
        raise UserError(f"{path}: {name} holds {held}; should be floating point")
    if len(dimensions) == value.ndim:
        for dimension, size in zip(dimensions, value.shape, strict=True):
            sizes.setdefault(dimension, size)
    right = [sizes.get(dimension, dimension) for dimension in dimensions]
    if list(value.shape) != right or 0 in value.shape:
        meaning = " x ".join(dimensions) or "one number"
        raise UserError(
            f"{path}: {name} is {list(value.shape)}; should be {meaning}, here [{', '.join(map(str, right))}]"
        )
