"""`Found`, which every format returns: one array of a file, with its shape and a way to read parts of it."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from saelib.errors import UserError

FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Found:
    """One array of a file. Its values have not been read yet."""

    shape: tuple[int, ...]
    kind: str
    """The type of its numbers as messages name it, such as 'bfloat16'."""
    floating: bool
    """True if `read` can return them as floating point."""
    read: Callable[[int, int], NDArray[Any]]
    """Reads the entries `start` to `stop` along the first axis."""
    together: int = 1
    """Entries along the first axis that are cheap to read together, such as those of a chunk."""


def of_numpy(values: Any, read: Callable[[int, int], NDArray[Any]] | None = None, together: int = 1) -> Found:
    """Describes anything that has numpy's `shape` and `dtype` and can be sliced along its first axis."""
    dtype = np.dtype(values.dtype)
    return Found(
        shape=tuple(map(int, values.shape)),
        kind=_kind(dtype),
        floating=dtype.kind == "f",
        read=read or (lambda start, stop: values[start:stop]),
        together=together,
    )


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "V" and dtype.names is None:
        return f"raw values of {dtype.itemsize} bytes, as numpy saves bfloat16 and float8"
    if dtype.kind in "OVUS":
        return {"O": "Python objects", "V": "records", "U": "text", "S": "text"}[dtype.kind]
    return dtype.newbyteorder("=").name


def choose(names: Iterable[str], member: str, path: Path | str) -> str:
    """Returns the array to read: the one that was asked for, or the only one. Raises `UserError` otherwise."""
    names = list(names)
    if member in names:
        return member
    shown = names if len(names) <= 12 else [*names[:12], f"and {len(names) - 12} more"]
    if member:
        raise UserError(f"{path}: no array '{member}'; it holds: {', '.join(shown) or 'none'}")
    if not names:
        raise UserError(f"{path}: holds no array")
    if len(names) > 1:
        raise UserError(f"{path}: holds {len(names)} arrays ({', '.join(shown)}); name one, as in {path}::{names[0]}")
    return names[0]


def damaged(path: Path, why: str = "") -> UserError:
    """Returns the error for a file or folder that is damaged or is not what its name says."""
    what = f"{path.suffix} file" if path.is_file() else f"{path.suffix} folder".lstrip()
    return UserError(f"{path}: damaged, cut short or no {what}{f' ({why})' if why else ''}")


def scratch_file(path: Path, size: int) -> IO[bytes]:
    """Opens a nameless temporary file for a copy of `size` bytes; it disappears when nothing uses it any more.

    Raises:
        UserError: if the disk has no room for it.
    """
    import shutil

    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{path}: has to be unpacked to {folder}, which takes {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB are "
            f"free there; set TMPDIR to a folder with more room, or save it as .npy"
        )
    return tempfile.TemporaryFile(prefix="saelib-")


def mapped(
    file: IO[bytes], dtype: DTypeLike, shape: tuple[int, ...], offset: int = 0, fortran: bool = False
) -> NDArray[Any]:
    """Maps the array that a file holds from byte `offset` on; its values are read as they are needed."""
    if prod(shape) == 0:  # an empty array cannot be mapped
        return np.empty(shape, dtype)
    file.flush()
    return np.memmap(file, dtype, "r", offset, shape, "F" if fortran else "C")
