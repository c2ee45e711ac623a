"""Read files that others wrote and that may be damaged or hostile: settings, checked before use, and tensors."""

import json
import pickle
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saelib.errors import UserError
from saelib.sae.check import in_words


@dataclass(frozen=True)
class Config:
    """Settings from a JSON file; each is checked when it is read."""

    path: Path
    values: dict[str, Any]

    def section(self, key: str) -> "Config":
        """Gives the settings below `key`."""
        return Config(self.path, _object(self.values.get(key), self.path, key))

    def choice(self, key: str, allowed: Mapping[str, Any], default: str | None = None) -> Any:
        """Gives the entry of `allowed` for the value of `key`."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, str) or value not in allowed:
            names = ", ".join(f"'{name}'" for name in allowed)
            raise UserError(f"{self.path}: '{key}' is {in_words(value)}, which cannot be read; can be: {names}")
        return allowed[value]

    def flag(self, key: str, default: bool) -> bool:
        """Gives true or false; `default` if `key` is missing or null."""
        value = default if self.values.get(key) is None else self.values[key]
        if not isinstance(value, bool):
            raise UserError(f"{self.path}: '{key}' is {in_words(value)}; should be true or false")
        return value

    def refuse_others(self, known: Collection[str]) -> None:
        """Refuses every setting that is not `known`: read elsewhere, or without effect on the computation."""
        others = [
            f"'{key}' ({in_words(value, 'null')})" for key, value in sorted(self.values.items()) if key not in known
        ]
        if others:
            raise UserError(
                f"{self.path}: holds settings that are not known here, and may change what the SAE computes: "
                f"{', '.join(others[:5])}; take out of the file those that change nothing"
            )

    def refuse_all_of(self, reasons: Mapping[str, str]) -> None:
        """Refuses each setting in `reasons`, with its reason, unless it is null, false, 0 or empty."""
        for key, reason in reasons.items():
            if value := self.values.get(key):
                raise UserError(f"{self.path}: '{key}' is {in_words(value)}: {reason}")

    def check_size(self, key: str, size: int) -> None:
        """Refuses a `key` that is missing or differs from the `size` of the weights."""
        if (value := self.values.get(key)) != size:
            raise UserError(f"{self.path}: '{key}' is {in_words(value)}; the weights have {size}")


def read_config(path: Path) -> Config:
    """Reads the settings in a JSON file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not valid JSON (it is no UTF-8 text)") from None
    except RecursionError:
        raise UserError(f"{path}: not valid JSON (it is nested too deep)") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    return Config(path, _object(values, path))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads every tensor of a safetensors file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a valid safetensors file ({error})") from None


def read_torch(path: Path) -> dict[str, Tensor]:
    """Reads every tensor of a dictionary that `torch.save` wrote; torch refuses anything that could run code."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with warnings.catch_warnings(action="ignore"):
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message advises loading the file as code.
        raise UserError(f"{path}: not a file of plain tensors: it holds other objects, or is damaged") from None
    except (RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError) as error:
        reason = (str(error) or "damaged").splitlines()[0].split(". ")[0]
        raise UserError(f"{path}: not a file of plain tensors ({reason})") from None
    others = [str(name) for name, value in tensors.items() if not _is_plain(value)] if isinstance(tensors, dict) else []
    if others or not isinstance(tensors, dict):
        which = f" ({', '.join(others[:5])} are something else)" if others else ""
        raise UserError(f"{path}: should be a dictionary of plain tensors, and nothing else{which}")
    return tensors


def _is_plain(value: Any) -> bool:
    # A hostile tensor may claim a size that its storage does not have (stride 0), or have no storage at all.
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.untyped_storage().nbytes() >= value.nbytes
    )


def _object(values: Any, path: Path, key: str | None = None) -> dict[str, Any]:
    if not isinstance(values, dict):
        found = f"'{key}' is {in_words(values)}" if key else f"holds {in_words(values, 'null')}"
        raise UserError(f"{path}: {found}; should be an object of named values")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
