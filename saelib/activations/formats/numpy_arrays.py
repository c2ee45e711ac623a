"""numpy's .npy and .npz files. The header is read first, so that nothing is ever unpickled."""

import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from saelib.activations.formats.found import Found, choose, damaged, mapped, of_numpy, scratch_file
from saelib.errors import UserError


def open_npy(path: Path, member: str) -> Found:
    """Maps a .npy file, which holds one array without a name."""
    if member:
        raise UserError(f"{path}: a .npy file holds one array without a name; leave '::{member}' out")
    with path.open("rb") as file:
        return _map(file, path, path.stat().st_size)


def open_npz(path: Path, member: str) -> Found:
    """Unpacks an array of a .npz file into a scratch file and maps that: members of a zip may be compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {one.filename: one.file_size for one in archive.infolist() if one.filename.endswith(".npy")}
            name = choose([name.removesuffix(".npy") for name in sizes], member, path)
            size = sizes[f"{name}.npy"]
            with archive.open(f"{name}.npy") as packed, scratch_file(path, size) as copy:
                while piece := packed.read(1 << 24):
                    copy.write(piece)
                copy.seek(0)
                return _map(copy, path, size)
    # zipfile and numpy raise these for damaged members; RuntimeError also for encryption and unknown compression.
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError) as error:
        encrypted = isinstance(error, RuntimeError) and "encrypted" in str(error)
        raise damaged(path, "it is encrypted" if encrypted else "") from None


def _map(file: IO[bytes], path: Path, size: int) -> Found:
    shape, fortran, dtype = _header(file, path)
    start = file.tell()
    if dtype.hasobject:
        return Found(shape, "Python objects", False, lambda start, stop: np.empty(0))
    wanted = start + prod(shape) * dtype.itemsize
    if size < wanted:
        raise UserError(f"{path}: cut short; an array {list(shape)} takes {wanted:,} bytes, but the file has {size:,}")
    if size > wanted:
        raise UserError(
            f"{path}: {size - wanted:,} bytes follow the array {list(shape)}; perhaps several arrays were saved to one "
            f"file, of which only the first would be read; save each to its own file"
        )
    return of_numpy(mapped(file, dtype, shape, start, fortran))


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if min(shape, default=0) < 0:
            raise ValueError("negative")
        return shape, fortran, dtype
    except (ValueError, TypeError, SyntaxError, EOFError, OverflowError):
        raise damaged(path) from None
