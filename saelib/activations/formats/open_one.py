"""Opens one file, whatever its format, and checks that it holds activations."""

from collections.abc import Callable
from pathlib import Path

from saelib.activations.formats.arrow_columns import is_data_set, open_arrow, open_data_set, open_parquet
from saelib.activations.formats.found import Found
from saelib.activations.formats.hdf5_arrays import open_hdf5
from saelib.activations.formats.numpy_arrays import open_npy, open_npz
from saelib.activations.formats.safetensors_arrays import open_safetensors
from saelib.activations.formats.torch_tensors import open_torch
from saelib.activations.formats.zarr_arrays import is_zarr, open_zarr
from saelib.errors import UserError

OPENERS: dict[str, Callable[[Path, str], Found]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".pt": open_torch,
    ".pth": open_torch,
    ".parquet": open_parquet,
    ".arrow": open_arrow,
}
CHUNKED: dict[str, Callable[[Path, str, bool], Found]] = {".zarr": open_zarr, ".h5": open_hdf5, ".hdf5": open_hdf5}
"""Formats in which chunks may be missing; their openers are told whether to fill them in."""
SUFFIXES = (*OPENERS, *CHUNKED)


def open_one(path: Path, member: str, fill_missing_chunks: bool) -> Found:
    """Opens an array of a file or folder.

    Raises:
        UserError: if it is not [tokens, d_in] or [examples, context, d_in] in floating point.
    """
    try:
        found = _opened(path, member, fill_missing_chunks)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or 'damaged'})") from error
    shape = list(found.shape)
    if not found.floating:
        raise UserError(f"{path}: the array holds {found.kind}; should be floating point, such as float32")
    if len(shape) not in (2, 3):
        raise UserError(f"{path}: the array is {shape}; should be [tokens, d_in] or [examples, context, d_in]")
    if 0 in shape:
        raise UserError(f"{path}: the array is empty ({shape})")
    return found


def _opened(path: Path, member: str, fill_missing_chunks: bool) -> Found:
    suffix = path.suffix.lower()
    if is_data_set(path):
        return open_data_set(path, member)
    if is_zarr(path) or suffix == ".zarr":
        return open_zarr(path, member, fill_missing_chunks)
    if not path.is_file():
        raise UserError(f"{path}: not a file")
    if suffix in CHUNKED:
        return CHUNKED[suffix](path, member, fill_missing_chunks)
    if suffix in OPENERS:
        return OPENERS[suffix](path, member)
    kind = f"'{suffix}' files" if suffix else "files without a suffix"
    raise UserError(f"{path}: cannot read {kind}; allowed: {', '.join(SUFFIXES)}, and folders of them")
