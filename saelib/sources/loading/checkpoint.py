"""Reads weights from checkpoints: only tensors are read, no objects are built, and nothing may be missing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar
from zipfile import BadZipFile

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from saelib.errors import UserError
from saelib.files.sealed import read_json

Settings = TypeVar("Settings", bound=BaseModel)


class Shards(BaseModel):
    """The index of a checkpoint that is split into several files."""

    weight_map: dict[str, str]
    """Name of a weight -> file."""


def read_tensors(path: Path, name: str, allowed: Sequence[type] = ()) -> dict[str, Any]:
    """Reads the tensors of a `.safetensors` file, or of a file that `torch.save` wrote, by name.

    Args:
        path: The file.
        name: The name of the model in messages.
        allowed: Classes that may be built besides tensors and plain Python values.

    Raises:
        UserError: if the file is missing, is cut short, is not a dict, or holds objects of other classes.
    """
    if not path.is_file():
        raise UserError(f"{name}: {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(allowed)):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(
            f"{name}: {path}: not a checkpoint, or one with pickled objects, which may run code and are never built"
        ) from None
    except (SafetensorError, BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{name}: {path}: not a complete checkpoint: {reason[0]}") from None
    if not isinstance(found, dict):
        raise UserError(f"{name}: {path}: holds a {type(found).__name__}, should hold weights by name")
    return found


def read_weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Reads the weights in a folder of the Hugging Face hub, in one file or several; safetensors before `.bin`.

    Raises:
        UserError: as `read_tensors`, or if the folder has neither.
    """
    for file in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{file}.index.json"
        if index.is_file():
            shards = sorted(set(read_settings(index, name, Shards).weight_map.values()))
            return {key: value for shard in shards for key, value in read_tensors(folder / shard, name).items()}
        if (folder / file).is_file():
            return read_tensors(folder / file, name)
    raise UserError(f"{name}: {folder} has neither model.safetensors nor pytorch_model.bin")


def read_settings(path: Path, name: str, kind: type[Settings]) -> Settings:
    """Reads the settings that `kind` names from a checkpoint's config.json or another JSON file.

    Raises:
        UserError: if the file is missing, or a setting is missing or invalid.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"])) or "the file"
        raise UserError(f"{name}: {path}: does not belong to such a model: {where}: {found['msg']}") from None


def load_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], name: str, assign: bool = False) -> None:
    """Loads `weights` into `model`. With `assign`, for a model on `meta`, the tensors themselves become its parameters.

    Raises:
        UserError: if a key is missing or unknown, or a shape differs.
    """
    try:
        model.load_state_dict(weights, strict=True, assign=assign)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        more = f" (and {len(reasons) - 1} more mistakes)" if len(reasons) > 1 else ""
        raise UserError(f"{name}: the weights do not fit its config: {reasons[0][:300]}{more}") from None
