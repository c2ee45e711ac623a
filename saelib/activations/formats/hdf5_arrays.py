"""Datasets of an HDF5 file, in any group."""

from math import ceil, prod
from pathlib import Path
from typing import Any

from saelib.activations.formats.found import Found, choose, damaged, of_numpy
from saelib.activations.formats.holes import refuse_holes
from saelib.errors import UserError


def open_hdf5(path: Path, member: str, fill_missing_chunks: bool) -> Found:
    """Opens a dataset, to be read slice by slice. Links that lead out of the file are not followed."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError:
        raise damaged(path) from None
    datasets: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            datasets[name] = node

    file.visititems(visit)
    name = choose(datasets, member.strip("/"), path)
    dataset = datasets[name]
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{path}: the values of '{name}' are stored in other files; name those files instead")
    found = of_numpy(dataset, together=dataset.chunks[0] if dataset.chunks else 1)
    if found.floating and not fill_missing_chunks:
        missing, chunks = _missing(dataset)
        refuse_holes(path, missing, chunks, fill=dataset.fillvalue)
    return found


def _missing(dataset: Any) -> tuple[int, int]:
    """Counts the chunks that were never written, which HDF5 reads as its fill value, and all chunks."""
    if dataset.chunks is None:
        return (int(dataset.id.get_storage_size() == 0 and dataset.size > 0), 1)
    chunks = prod(ceil(size / chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    return chunks - dataset.id.get_num_chunks(), chunks
