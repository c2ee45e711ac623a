"""Opens a finished store and reads rows from it."""

import socket
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.store.layout import ARRAYS, SPLITS, Split, StoreMetadata
from saelib.store.places import Place, find, missing_chunks, read_metadata
from saelib.store.remote import is_url

# zarr raises these for a chunk or a metadata file that differs from what was written.
CORRUPT = (ValueError, TypeError, KeyError, RuntimeError, OSError)


class StoreRows:
    """The activations of one split of a store, as `saelib.activations.rows.Rows`.

    If it is sent to another process, only its path or URL is sent, and the store is opened again there. Neither rows
    nor credentials travel.
    """

    def __init__(self, store: "Store", split: Split) -> None:
        """Takes an open store; use `Store.train` and `Store.heldout`."""
        self.name = f"{store.metadata.model} layer {store.metadata.layer} ({split})"
        self.shape = (store.metadata.tokens(split), store.metadata.d_in)
        self.block_rows = store.metadata.chunk_rows
        self.offset: NDArray[np.float32] | None = store.offset if store.metadata.dtypes[split] == "float16" else None
        self._array = store.arrays[split]["acts"]
        self._store = store
        self._split: Split = split

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Reads rows without the offset: float16 or float32 [stop - start, d_in]. Raises `UserError` on a bad chunk."""
        try:
            return np.asarray(self._array[start:stop])
        except CORRUPT as error:
            first, last = start // self.block_rows, (stop - 1) // self.block_rows
            raise UserError(
                f"{self._store.location}/{self._split}/acts: corrupt chunk among {first} to {last} ({error}); "
                f"'saelib store verify' names it; delete the store to extract it again"
            ) from None

    def examples(self) -> NDArray[np.int32]:
        """Reads the number of the example that each row came from: [tokens]. Raises `UserError` on a bad chunk."""
        try:
            return np.asarray(self._store.arrays[self._split]["example"][:])
        except CORRUPT as error:
            raise UserError(
                f"{self._store.location}/{self._split}/example: corrupt ({error}); delete the store to extract it again"
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Tells pickle to send the location, so that the receiver opens the store itself."""
        location = self._store.location
        absolute = str(location) if is_url(location) else str(Path(location).absolute())
        return _open_elsewhere, (absolute, self._store.metadata.key, self._split)


@lru_cache(maxsize=2)
def _open_elsewhere(location: str, key: str, split: Split) -> StoreRows:
    try:
        store = open_store(location)
    except UserError as error:
        raise UserError(f"worker on {socket.gethostname()}: {error}; every worker must be able to read it") from None
    if store.metadata.key != key:
        raise UserError(f"{location}: was replaced by another store while it was being read; run it again")
    return StoreRows(store, split)


class Store:
    """A finished, complete store, with the rows `train` and `heldout`."""

    def __init__(
        self, location: Path | str, metadata: StoreMetadata, offset: NDArray[np.float32], arrays: dict[Split, Any]
    ) -> None:
        """Takes the open arrays; use `open_store`."""
        self.location = location
        self.metadata = metadata
        self.offset = offset
        self.arrays: dict[Split, dict[str, Any]] = arrays

    @property
    def train(self) -> StoreRows:
        """Rows that statistics, preprocessings and SAEs are fitted to."""
        return StoreRows(self, "train")

    @property
    def heldout(self) -> StoreRows:
        """Rows of other examples, for measuring."""
        return StoreRows(self, "heldout")


def open_store(location: Path | str) -> Store:
    """Opens a store for reading: a folder, or an s3:// URL.

    The contents of chunks are checked (crc32c) when they are read, or all at once by `verify_store`.

    Raises:
        UserError: if the store is missing, unfinished, of a foreign format, or lacks a chunk, or if the server cannot
            be reached.
    """
    place = find(location)
    metadata = read_metadata(place, location)
    missing = missing_chunks(place, metadata)
    if missing:
        raise UserError(
            f"{location}: {len(missing)} chunks are missing, the first is {missing[0]}; delete the store to extract it "
            "again"
        )
    return open_arrays(place, metadata, location)


def open_arrays(place: Place, metadata: StoreMetadata, location: Path | str) -> Store:
    """Opens the arrays of a store whose chunks are known to exist. Raises `UserError` if they are not as described."""
    try:
        offset = _open(place / "offset", (metadata.d_in,), (metadata.d_in,), "float32")
        arrays: dict[Split, Any] = {
            split: {name: _open_rows(place, metadata, split, name) for name in ARRAYS} for split in SPLITS
        }
        return Store(location, metadata, np.asarray(offset[:]), arrays)
    except CORRUPT as error:
        raise UserError(f"{location}: corrupt ({error}); delete the store to extract it again") from None


def _open_rows(place: Place, metadata: StoreMetadata, split: Split, name: str) -> Any:
    tokens, width = metadata.tokens(split), metadata.d_in
    if name == "acts":
        return _open(place / split / name, (tokens, width), (metadata.chunk_rows, width), metadata.dtypes[split])
    return _open(place / split / name, (tokens,), (metadata.index_rows,), {"norm": "float32", "example": "int32"}[name])


def _open(place: Place, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> Any:
    """Opens an array and checks it against the store's metadata. Raises `ValueError` if they differ."""
    array = zarr.open_array(place, mode="r")
    # The names of chunks are compared too, because zarr reads those that it does not find as NaN.
    first = array.metadata.encode_chunk_key((0,) * len(shape))
    found = (list(array.shape), list(array.chunks), str(array.dtype), first)
    wanted = (list(shape), list(chunks), dtype, "c" + "/0" * len(shape))
    if found != wanted:
        differing = [f"{are}, not {should}" for are, should in zip(found, wanted, strict=True) if are != should]
        raise ValueError(f"{place}: not what the store's metadata say: {'; '.join(differing)}")
    return array
