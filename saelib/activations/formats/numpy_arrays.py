"""numpy's .npy and .npz. The header is read first: what cannot be mapped is never unpickled."""

import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from saelib.activations.formats.found import Found, choose, damaged, mapped, of_numpy, scratch_file
from saelib.errors import UserError


def open_npy(path: Path, member: str) -> Found:
    """Map a .npy file. It holds one array, which has no name."""
    if member:
        raise UserError(f"{path}: a .npy file holds one array without a name; leave '::{member}' out")
    with path.open("rb") as file:
        return _map(file, path, path.stat().st_size)


def open_npz(path: Path, member: str) -> Found:
    """Map an array of a .npz file, out of a copy: a zip, whose members may be compressed, cannot be mapped."""
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
    # What zipfile and numpy raise for damaged members; RuntimeError also for encrypted and strangely compressed ones.
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
        raise UserError(f"{path}: cut short; an array {list(shape)} takes {wanted:,} bytes, the file has {size:,}")
    if size > wanted:
        raise UserError(
            f"{path}: {size - wanted:,} bytes follow the array {list(shape)}; perhaps several arrays were saved to one "
            f"file, of which only the first would be read; save them to files of their own"
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
