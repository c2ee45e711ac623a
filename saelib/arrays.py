"""Open activations that lie in a file, of any size, as `Rows`: .npy, .npz, .safetensors, .zarr or one of our stores."""

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.rows import ArrayRows, Rows
from saelib.store import open_store, read_key
from saelib.store.remote import is_url

FORMATS = ".npy, .npz, .safetensors, .zarr"


def open_rows(file: str | Path) -> Rows:
    """Open an array [tokens, d_in] for reading block by block; nothing is loaded whole.

    Where a file holds several arrays, `FILE::NAME` says which. A store (a folder, or an s3:// URL) gives its training
    rows, or, as `STORE::heldout`, the others.

    Raises:
        UserError: where the file is missing, of another format, or holds no such array; pickled objects are refused.
    """
    text, _, member = str(file).partition("::")
    if is_url(text):
        return _store(text, member)
    path = Path(text)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    opener = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".zarr": _zarr}.get(path.suffix)
    if opener is None:
        raise UserError(f"{path}: cannot read '{path.suffix}' files; allowed: {FORMATS}")
    try:
        return opener(path, member)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a valid {path.suffix} file ({error})") from None


def _npy(path: Path, member: str) -> Rows:
    return _checked(np.load(path, mmap_mode="r", allow_pickle=False), path)


def _npz(path: Path, member: str) -> Rows:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        name = _choose(names, member, path)
        # A member may be compressed, and a zip cannot be mapped: copy it, piece by piece, to a file that can.
        with tempfile.NamedTemporaryFile(prefix="saelib-", suffix=".npy") as copy:
            with archive.open(f"{name}.npy") as stream:
                while piece := stream.read(1 << 24):
                    copy.write(piece)
            copy.flush()
            return _checked(np.load(copy.name, mmap_mode="r", allow_pickle=False), path)


def _safetensors(path: Path, member: str) -> Rows:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            name = _choose(list(file.keys()), member, path)
            view = file.get_slice(name)
    except SafetensorError as error:
        raise UserError(f"{path}: not a valid .safetensors file ({error})") from None
    if view.get_dtype() == "BF16":
        # numpy has no bfloat16; torch has.
        with safe_open(path, framework="pt") as file:
            view = file.get_slice(name)
    _check_shape(path, tuple(view.get_shape()), view.get_dtype() in ("F16", "BF16", "F32", "F64"), view.get_dtype())
    return _SliceRows(view, path)


def _zarr(path: Path, member: str) -> Rows:
    import zarr

    if read_key(path) is not None or (path / "train" / "acts").is_dir():
        return _store(path, member)
    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Group):
        node = node[_choose([name for name, _ in node.arrays()], member, path)]
    if not isinstance(node, zarr.Array):
        raise UserError(f"{path}: '{member}' is not an array")
    _check_shape(path, node.shape, node.dtype.kind == "f", str(node.dtype))
    missing = node.nchunks - node.nchunks_initialized
    if missing:
        raise UserError(f"{path}: {missing} of {node.nchunks} chunks are missing; zarr would read them as fill values")
    return _SliceRows(node, path, block_rows=node.chunks[0])


def _store(location: Path | str, member: str) -> Rows:
    store = open_store(location)
    return {"train": store.train, "heldout": store.heldout}[_choose(["train", "heldout"], member or "train", location)]


class _SliceRows:
    """Anything with `shape` that is sliced along its rows, as `Rows`."""

    def __init__(self, view: Any, path: Path, block_rows: int = 4096) -> None:
        self.name = str(path)
        shape = view.get_shape() if hasattr(view, "get_shape") else view.shape
        self.shape = (int(shape[0]), int(shape[1]))
        # Reads of a few thousand rows suit both tiny and huge chunks of other people's files.
        self.block_rows = block_rows * max(1, 4096 // block_rows)
        self.offset: NDArray[np.float32] | None = None
        self._view = view

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows `start` to `stop`: [stop - start, d_in]."""
        try:
            values = self._view[start:stop]
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(f"{self.name}: rows {start} to {stop} cannot be read ({error})") from None
        return np.asarray(values) if isinstance(values, np.ndarray) else values.float().numpy()


def _choose(names: list[str], member: str, path: Path | str) -> str:
    """The array to read: the one that was asked for, or the only one there is."""
    if member in names:
        return member
    listed = ", ".join(names) or "(none)"
    if member:
        raise UserError(f"{path}: no array '{member}'; it holds: {listed}")
    if len(names) != 1:
        raise UserError(
            f"{path}: holds {len(names)} arrays ({listed}); name one, as in {path}::{(names or ['NAME'])[0]}"
        )
    return names[0]


def _checked(values: NDArray[Any], path: Path) -> Rows:
    _check_shape(path, values.shape, values.dtype.kind == "f", str(values.dtype))
    return ArrayRows(values, name=str(path))


def _check_shape(path: Path, shape: tuple[int, ...], is_float: bool, dtype: str) -> None:
    if len(shape) != 2:
        raise UserError(f"{path}: the array is {list(shape)}; should be [tokens, d_in]")
    if not is_float:
        raise UserError(f"{path}: the array holds {dtype}; should be floating point")
    if 0 in shape:
        raise UserError(f"{path}: the array is empty ({list(shape)})")
