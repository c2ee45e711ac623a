"""Open a finished store and read rows from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.store.layout import ARRAYS, SPLITS, Split, StoreMetadata, metadata_of, missing_chunks

# What zarr raises for a chunk or a metadata file that is not what was written.
CORRUPT = (ValueError, TypeError, KeyError, RuntimeError, OSError)


class StoreRows:
    """The activations of one split of a store, as `saelib.rows.Rows`."""

    def __init__(self, store: "Store", split: Split) -> None:
        """Opened by `Store.train` and `Store.heldout`."""
        self.name = f"{store.metadata.model} layer {store.metadata.layer} ({split})"
        self.shape = (store.metadata.tokens(split), store.metadata.d_in)
        self.block_rows = store.metadata.chunk_rows
        self.offset: NDArray[np.float32] | None = store.offset
        self._array = store.arrays[split]["acts"]
        self._path = store.path / split / "acts"

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows without the offset: float16 or float32 [stop - start, d_in]. Raises `UserError` on a bad chunk."""
        try:
            return np.asarray(self._array[start:stop])
        except CORRUPT as error:
            first, last = start // self.block_rows, (stop - 1) // self.block_rows
            raise UserError(
                f"{self._path}: corrupt chunk among {first} to {last} ({error}); "
                f"'saelib store verify' names it, deleting the store extracts it again"
            ) from None


class Store:
    """A finished, complete store. `train` and `heldout` are its rows."""

    def __init__(self, path: Path, metadata: StoreMetadata, arrays: dict[Split, dict[str, Any]]) -> None:
        """Use `open_store`."""
        self.path = path
        self.metadata = metadata
        self.arrays = arrays
        self.offset: NDArray[np.float32] = np.asarray(zarr.open_array(path / "offset", mode="r")[:])

    @property
    def train(self) -> StoreRows:
        """Rows that statistics, preprocessings and SAEs are fitted on."""
        return StoreRows(self, "train")

    @property
    def heldout(self) -> StoreRows:
        """Rows of other examples, for measuring."""
        return StoreRows(self, "heldout")


def open_store(path: Path) -> Store:
    """Open a store for reading.

    Raises:
        UserError: where the store is missing, unfinished, of a foreign format, or lacks a chunk. Chunk contents are
            checked (crc32c) when they are read, or all at once by `verify_store`.
    """
    metadata = read_metadata(path)
    missing = missing_chunks(path, metadata)
    if missing:
        raise UserError(
            f"{path}: {len(missing)} chunks are missing, the first is {missing[0]}; delete it to extract it again"
        )
    try:
        arrays: dict[Split, dict[str, Any]] = {
            split: {name: _open(path, metadata, split, name) for name in ARRAYS} for split in SPLITS
        }
        return Store(path, metadata, arrays)
    except CORRUPT as error:
        raise UserError(f"{path}: corrupt ({error}); delete it to extract it again") from None


def read_metadata(path: Path) -> StoreMetadata:
    """The checked metadata of a store. Raises `UserError` where it is missing, unfinished or corrupt."""
    if not path.is_dir():
        raise UserError(f"{path}: no such store")
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    except FileNotFoundError:
        raise UserError(f"{path}: not a store, or one that was never finished (no zarr.json)") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: corrupt metadata (zarr.json is not valid); extract it again") from None
    return metadata_of(attributes, path)


def _open(path: Path, metadata: StoreMetadata, split: Split, name: str) -> Any:
    array = zarr.open_array(path / split / name, mode="r")
    tokens = metadata.tokens(split)
    shape = (tokens, metadata.d_in) if name == "acts" else (tokens,)
    dtype = {"acts": metadata.dtypes[split], "norm": "float32", "example": "int32"}[name]
    chunks = (metadata.chunk_rows, metadata.d_in) if name == "acts" else (metadata.index_rows,)
    if array.shape != shape or str(array.dtype) != dtype or array.chunks != chunks:
        raise ValueError(f"{split}/{name} is {array.dtype}{list(array.shape)}, the metadata say {dtype}{list(shape)}")
    return array
