"""The layout of a store on disk: its metadata and its chunks."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from saelib.errors import UserError

FORMAT = "saelib activation store"
VERSION = 2

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
ARRAYS = ("acts", "norm", "example")


@dataclass(frozen=True)
class StoreMetadata:
    """The attributes of a store's zarr group. They are written last, so their presence means that it is complete."""

    key: str
    model: str
    layer: int
    d_in: int
    train_tokens: int
    heldout_tokens: int
    chunk_rows: int
    """Number of rows in a chunk of `acts`."""
    index_rows: int
    """Number of rows in a chunk of `norm` and `example`."""
    dtypes: dict[str, str]
    """Split -> 'float16' (activations minus the offset) or 'float32' (the activations themselves)."""
    reasons: dict[str, str]
    """Split -> one sentence that says why it is float32; splits in float16 have none."""
    examples: dict[str, int]
    """Split -> number of examples that the tokens came from."""
    dataset: str
    versions: dict[str, str]
    """Versions of the libraries that made the activations."""
    format: str = FORMAT
    version: int = VERSION

    def tokens(self, split: Split) -> int:
        """Returns the number of rows of a split."""
        return self.train_tokens if split == "train" else self.heldout_tokens

    def to_attributes(self) -> dict[str, Any]:
        """Returns the JSON attributes, with a checksum over themselves."""
        attributes = asdict(self)
        return attributes | {"checksum": _checksum(attributes)}


def metadata_of(attributes: dict[str, Any], path: Path | str) -> StoreMetadata:
    """Turns a group's attributes into `StoreMetadata`. Raises `UserError` if they are not those of a finished store."""
    if attributes.get("format") != FORMAT:
        raise UserError(f"{path}: incomplete or not a saelib store (no finished metadata); extract it again")
    if attributes.get("version") != VERSION:
        raise UserError(
            f"{path}: has store version {attributes.get('version')}, but this saelib reads version {VERSION}; extract "
            "it again"
        )
    checksum = attributes.pop("checksum", None)
    if checksum != _checksum(attributes) or set(attributes) != {field.name for field in fields(StoreMetadata)}:
        raise UserError(f"{path}: corrupt metadata (its checksum does not match); extract it again")
    return StoreMetadata(**attributes)


def chunk_name(split: Split, array: str, index: int) -> str:
    """Returns the file name of a chunk inside a store (zarr 3's default chunk key)."""
    return f"{split}/{array}/c/{index}" + ("/0" if array == "acts" else "")


def chunk_names(metadata: StoreMetadata) -> Iterator[str]:
    """Yields the file name of every chunk of a complete store."""
    yield "offset/c/0"
    for split in SPLITS:
        for array in ARRAYS:
            rows = metadata.chunk_rows if array == "acts" else metadata.index_rows
            for index in range(-(-metadata.tokens(split) // rows)):
                yield chunk_name(split, array, index)


def _checksum(attributes: dict[str, Any]) -> str:
    canonical = json.dumps(attributes, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
