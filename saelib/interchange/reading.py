"""Read what others wrote, which may be damaged or hostile: settings, each checked before it is used, and tensors."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saelib.errors import UserError


@dataclass(frozen=True)
class Config:
    """Settings from a JSON file; what is taken from them is checked."""

    path: Path
    values: dict[str, Any]

    def section(self, key: str) -> "Config":
        """The settings below `key`."""
        return Config(self.path, _object(self.values.get(key), self.path, f"'{key}'"))

    def choice(self, key: str, allowed: Mapping[str, Any], default: str | None = None) -> Any:
        """What `allowed` holds for the value of `key`."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, str) or value not in allowed:
            names = ", ".join(f"'{name}'" for name in allowed)
            raise UserError(f"{self.path}: '{key}' is {_short(value)}, which cannot be read; can be: {names}")
        return allowed[value]

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.path}: '{key}' is {_short(value)}; should be true or false")
        return value

    def check_size(self, key: str, size: int) -> None:
        """Refuse a `key` that is there and differs from the `size` that the weights have."""
        if self.values.get(key, size) != size:
            raise UserError(f"{self.path}: '{key}' is {_short(self.values[key])}; the weights have {size}")


def read_config(path: Path) -> Config:
    """The settings in a JSON file."""
    try:
        values = json.loads(path.read_text(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    # Deep nesting ends in a RecursionError.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    return Config(path, _object(values, path, "the file"))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a valid safetensors file ({error})") from None


def read_torch(path: Path) -> dict[str, Tensor]:
    """Every tensor of a dictionary that `torch.save` wrote; torch refuses anything that could run code."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a file of plain tensors ({reason})") from None
    if not isinstance(tensors, dict) or not all(_is_plain(value) for value in tensors.values()):
        raise UserError(f"{path}: should be a dictionary of plain tensors, and nothing else")
    return tensors


def _is_plain(value: Any) -> bool:
    # A hostile tensor may claim a size that its storage does not have (stride 0), or have no storage at all.
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.untyped_storage().nbytes() >= value.nbytes
    )


def _object(values: Any, path: Path, what: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{path}: {what} is {_short(values)}; should be an object of named values")
    return values


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
