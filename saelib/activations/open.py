"""Opens files of activations, of any size and in many formats, as `Rows`. `docs/plugins.md` lists the formats."""

import logging
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from saelib.activations.formats.found import Found, choose
from saelib.activations.formats.open_one import open_one
from saelib.activations.formats.shards import find_files
from saelib.activations.formats.zarr_arrays import is_zarr
from saelib.activations.rows import Rows
from saelib.errors import UserError
from saelib.store import open_store, read_key
from saelib.store.remote import is_url

# Reads of a few thousand rows suit both tiny and huge chunks of other people's files.
BLOCK_ROWS = 4096

log = logging.getLogger(__name__)


class FileRows:
    """One array as `Rows`, or several arrays of one width, one after another.

    An array [examples, context, d_in] is read as examples * context rows.
    """

    def __init__(self, name: str, parts: Sequence[tuple[str, Found]], notes: Sequence[str] = ()) -> None:
        """Takes `parts`: what messages call each array, and the array, in floating point with two or three axes."""
        self.name = name
        self.notes = list(notes)
        """Plain sentences that say what was read and what was not."""
        contexts = {prod(found.shape[1:-1]) for _, found in parts}
        self.context = contexts.pop() if len(contexts) == 1 else 1
        """Number of consecutive rows that come from one example; 1 if that is not known."""
        self._parts = parts
        self._starts = [0, *accumulate(prod(found.shape[:-1]) for _, found in parts)]
        self.shape = (self._starts[-1], parts[0][1].shape[-1])
        together = parts[0][1].together * self.context
        self.block_rows = together * max(1, BLOCK_ROWS // together)
        self.offset: NDArray[np.float32] | None = None

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Reads the rows `start` to `stop`: float16, float32 or float64 [stop - start, d_in]."""
        pieces, index = [], bisect_right(self._starts, start) - 1
        while start < stop:
            begin, end = self._starts[index], min(stop, self._starts[index + 1])
            pieces.append(_read(*self._parts[index], start - begin, end - begin))
            start, index = end, index + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def open_rows(file: str | Path, fill_missing_chunks: bool = False) -> Rows:
    """Opens activations, to be read block by block; they are never in memory as a whole.

    Args:
        file: One of the following. If a file holds several arrays, `FILE::NAME` says which one to read.

            - A file with one of `open_one.SUFFIXES`.
            - A folder of such files, or a pattern such as `acts/*.npy`: they are read one after another, ordered by
              the numbers in their names.
            - A data set that the library `datasets` saved.
            - A store (a folder, or an s3:// URL): its training rows, or with `STORE::heldout` its held-out rows.
        fill_missing_chunks: Read chunks that are missing from a .zarr or .h5 file as its fill value.

    Raises:
        UserError: if there is no such file or array, if it is not [tokens, d_in] or [examples, context, d_in] in
            floating point, or if a chunk is missing.
    """
    location, _, member = str(file).partition("::")
    if not location:
        raise UserError("no file is named; should be a file, a folder, a pattern such as 'acts/*.npy', or a store")
    if is_url(location):
        return _store(location, member)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", location):
        raise UserError(
            f"{location}: is a URL; download it first. Only files and folders on this machine and stores at s3:// "
            "can be read"
        )
    paths, notes = find_files(location)
    if len(paths) == 1 and is_zarr(paths[0]) and _is_store(paths[0]):
        return _store(paths[0], member)
    parts = [(str(path), open_one(path, member, fill_missing_chunks)) for path in paths]
    _check_widths(location, parts)
    rows = FileRows(location, parts, notes)
    if any(len(found.shape) == 3 for _, found in parts):
        shape = list(parts[0][1].shape) if len(parts) == 1 else f"[examples, context, {rows.shape[1]}]"
        rows.notes.append(f"{shape} is read as {rows.shape[0]:,} rows of {rows.shape[1]:,}")
    for note in rows.notes:
        log.info("%s: %s", location, note)
    return rows


def _check_widths(location: str, parts: Sequence[tuple[str, Found]]) -> None:
    first: dict[int, str] = {}
    for name, found in parts:
        first.setdefault(found.shape[-1], name)
    if len(first) > 1:
        shown = ", ".join(f"{Path(name).name} has {width}" for width, name in list(first.items())[:4])
        raise UserError(f"{location}: the files differ in d_in ({shown}); it should be the same in all of them")


def _is_store(path: Path) -> bool:
    return read_key(path) is not None or (path / "train" / "acts").is_dir()


def _store(location: Path | str, member: str) -> Rows:
    store = open_store(location)
    return {"train": store.train, "heldout": store.heldout}[choose(["train", "heldout"], member or "train", location)]


def _read(name: str, found: Found, start: int, stop: int) -> NDArray[np.floating]:
    """Reads rows of one array, in a floating-point type that every machine computes with."""
    context = prod(found.shape[1:-1])
    first = start // context
    try:
        values = np.asarray(found.read(first, -(-stop // context)))
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"{name}: rows {start:,} to {stop - 1:,} cannot be read: damaged, or its codec is not installed here"
        ) from error
    native = np.dtype(np.float64) if values.dtype.itemsize > 8 else values.dtype.newbyteorder("=")
    # An 80-bit number may become infinite; whoever uses the rows finds and reports that.
    with np.errstate(over="ignore"):
        values = values.astype(native, copy=False)
    rows = values.reshape(-1, found.shape[-1])
    return rows[start - first * context : stop - first * context]
