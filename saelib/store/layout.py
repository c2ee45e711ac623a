"""What a store looks like on disk."""

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
    """The attributes of a store's zarr group. Their presence says that the store is complete: they come last."""

    key: str
    model: str
    layer: int
    d_in: int
    train_tokens: int
    heldout_tokens: int
    chunk_rows: int
    """Rows of a chunk of `acts`."""
    index_rows: int
    """Rows of a chunk of `norm` and `example`."""
    dtypes: dict[str, str]
    """Split -> 'float16', of activations less the offset, or 'float32', of the activations themselves."""
    reasons: dict[str, str]
    """Split -> why it is float32, in a sentence; nothing for those in float16."""
    examples: dict[str, int]
    """Split -> number of examples the tokens came from."""
    dataset: str
    versions: dict[str, str]
    """Of the libraries that made the activations."""
    format: str = FORMAT
    version: int = VERSION

    def tokens(self, split: Split) -> int:
        """Rows of a split."""
        return self.train_tokens if split == "train" else self.heldout_tokens

    def to_attributes(self) -> dict[str, Any]:
        """As JSON attributes with a checksum over themselves."""
        attributes = asdict(self)
        return attributes | {"checksum": _checksum(attributes)}


def metadata_of(attributes: dict[str, Any], path: Path | str) -> StoreMetadata:
    """Check and type a group's attributes. Raises `UserError` where they are not those of a finished store."""
    if attributes.get("format") != FORMAT:
        raise UserError(f"{path}: incomplete or not a saelib store (no finished metadata); extract it again")
    if attributes.get("version") != VERSION:
        raise UserError(
            f"{path}: store version {attributes.get('version')}; this saelib reads version {VERSION}; extract it again"
        )
    checksum = attributes.pop("checksum", None)
    if checksum != _checksum(attributes) or set(attributes) != {field.name for field in fields(StoreMetadata)}:
        raise UserError(f"{path}: corrupt metadata (its checksum does not match); extract it again")
    return StoreMetadata(**attributes)


def chunk_name(split: Split, array: str, index: int) -> str:
    """File of a chunk inside a store (zarr 3's default chunk keys)."""
    return f"{split}/{array}/c/{index}" + ("/0" if array == "acts" else "")


def chunk_names(metadata: StoreMetadata) -> Iterator[str]:
    """Every chunk that a whole store has."""
    yield "offset/c/0"
    for split in SPLITS:
        for array in ARRAYS:
            rows = metadata.chunk_rows if array == "acts" else metadata.index_rows
            for index in range(-(-metadata.tokens(split) // rows)):
                yield chunk_name(split, array, index)


def _checksum(attributes: dict[str, Any]) -> str:
    canonical = json.dumps(attributes, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
