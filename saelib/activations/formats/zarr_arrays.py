"""Arrays of a zarr folder, formats 2 and 3, sharded or not, in any group. No chunk of an array may be missing."""

import warnings
from collections.abc import Iterator
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.activations.formats.found import Found, choose, damaged, of_numpy
from saelib.activations.formats.holes import refuse_holes
from saelib.errors import UserError

MARKS = ("zarr.json", ".zarray", ".zgroup")
ABSENT = np.iinfo(np.uint64).max


def is_zarr(folder: Path) -> bool:
    """Tells whether a folder is a zarr array or group."""
    return any((folder / mark).is_file() for mark in MARKS)


def open_zarr(path: Path, member: str, fill_missing_chunks: bool) -> Found:
    """Opens an array, to be read slice by slice.

    Raises:
        UserError: if a chunk, or an inner chunk of a shard, is missing, unless `fill_missing_chunks`.
    """
    import zarr

    if not path.is_dir() or not is_zarr(path):
        raise UserError(f"{path}: not a zarr array or group (a folder with zarr.json, .zarray or .zgroup)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about other files in the folder
            node = _array(zarr.open(path, mode="r"), member, path)
        folder = path / node.path
        found = of_numpy(node, together=node.chunks[0] if node.ndim else 1)
        if not fill_missing_chunks and found.floating:
            _refuse_missing(path, folder, node)
    # These are all the errors that zarr was seen to raise for damaged or unknown metadata.
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as error:
        why = "a data type that zarr does not know here" if "data type" in str(error) else "its metadata cannot be read"
        raise damaged(path, why) from error
    return found


def _array(node: Any, member: str, path: Path) -> Any:
    import zarr

    if isinstance(node, zarr.Group):
        arrays = {name: one for name, one in node.members(max_depth=None) if isinstance(one, zarr.Array)}
        return arrays[choose(arrays, member.strip("/"), path)]
    if member:
        raise UserError(f"{path}: is one array without a name; leave '::{member}' out")
    return node


def _refuse_missing(path: Path, folder: Path, array: Any) -> None:
    nested = str(array.metadata.to_dict().get("codecs")).count("sharding_indexed") - (array.shards is not None)
    if nested:
        raise UserError(f"{path}: shards inside of shards, or behind another codec, cannot be read; save it again")
    counts = [ceil(size / chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    missing, first = 0, ""
    for corner in _missing(folder, array):
        row = corner[0] * array.chunks[0]
        first = first or f", the first at rows {row:,} to {min(row + array.chunks[0], array.shape[0]) - 1:,}"
        missing += 1
    fill = 0 if array.fill_value is None else array.fill_value
    refuse_holes(path, missing, prod(counts), fill, first)


def _missing(folder: Path, array: Any) -> Iterator[tuple[int, ...]]:
    """Yields the place of each chunk that no file holds, counted in chunks along each axis."""
    outer = array.shards or array.chunks
    per_shard = [shard // chunk for shard, chunk in zip(outer, array.chunks, strict=True)]
    whole = [ceil(size / chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    for place in product(*(range(ceil(size / part)) for size, part in zip(array.shape, outer, strict=True))):
        file = folder / array.metadata.encode_chunk_key(place)
        if not file.is_file():
            held = np.zeros(per_shard, bool)
        elif array.shards is None:
            continue
        else:
            held = _held(file, array.metadata.codecs[0], per_shard)
        for inner in np.argwhere(~held):
            corner = tuple(int(a * n + b) for a, n, b in zip(place, per_shard, inner, strict=True))
            # A shard at the end of the array may reach beyond it.
            if all(at < count for at, count in zip(corner, whole, strict=True)):
                yield corner


def _held(shard: Path, codec: Any, per_shard: list[int]) -> NDArray[np.bool_]:
    """Returns which inner chunks a shard holds, bool [chunks of the shard along each axis].

    The shard's index has the offset and the length of each chunk; for an absent chunk, both are the largest number.

    Raises:
        UserError: if the index does not describe this file.
    """
    names = [one.to_dict()["name"] for one in codec.index_codecs]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise UserError(f"{shard}: its index is encoded with {', '.join(names)}; only bytes and crc32c can be read")
    size, length = shard.stat().st_size, 16 * prod(per_shard) + 4 * (len(names) - 1)
    with shard.open("rb") as file:
        if codec.index_location.value == "end":
            file.seek(max(0, size - length))
        content = file.read(length)
    order = "<" if codec.index_codecs[0].endian.value == "little" else ">"
    if len(content) < length:
        raise UserError(f"{shard}: cut short; it has {size:,} bytes")
    entries = np.frombuffer(content[: 16 * prod(per_shard)], f"{order}u8").reshape(-1, 2)
    held = (entries != ABSENT).any(axis=1)
    if (entries[held] > size).any() or (entries[held].sum(axis=1) > size).any():
        raise UserError(f"{shard}: cut short or damaged; its index points beyond its {size:,} bytes")
    return held.reshape(per_shard)
