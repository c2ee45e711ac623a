"""Collects the sparse codes of a long pass on disk, and writes them latent by latent."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from saelib.evaluation.seen import write_codes


class CodesFile:
    """The codes of one SAE, added block by block. Memory is that of a block, however long the pass is."""

    def __init__(self, folder: Path, latents: int) -> None:
        """Starts without tokens; the blocks go to files in `folder`, which are removed at the end."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._latents = folder, latents
        self._indices, self._data = ((folder / f"{name}.part").open("wb") for name in ("indices", "data"))
        self._row_sizes: list[NDArray[np.int64]] = []

    def add(self, codes: Any) -> None:
        """Adds a `csr_array` [tokens, latents] without stored zeros."""
        codes.indices.astype(np.int32).tofile(self._indices)
        codes.data.astype(np.float32).tofile(self._data)
        self._row_sizes.append(np.diff(codes.indptr).astype(np.int64))

    def finish(self) -> None:
        """Writes `codes.npz` and removes the blocks."""
        for file in (self._indices, self._data):
            file.close()
        sizes = np.concatenate([np.zeros(1, np.int64), *self._row_sizes])
        codes = sparse.csr_array(
            (self._part("data", np.float32), self._part("indices", np.int32), np.cumsum(sizes)),
            shape=(len(sizes) - 1, self._latents),
        )
        write_codes(self._folder.parent, self._folder.name, self._by_latent(codes))
        for name in ("indices", "data", "sorted_indices", "sorted_data"):
            (self._folder / f"{name}.part").unlink(missing_ok=True)

    def _by_latent(self, codes: Any, at_a_time: int = 2**22) -> Any:
        """Sorts the codes by latent, some tokens at a time, into files that are mapped and not read."""
        counts = np.zeros(self._latents, np.int64)
        for start in range(0, codes.nnz, at_a_time):
            counts += np.bincount(codes.indices[start : start + at_a_time], minlength=self._latents)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        indices = self._new("sorted_indices", np.int32, codes.nnz)
        data = self._new("sorted_data", np.float32, codes.nnz)
        free = starts[:-1].copy()
        rows = max(1, at_a_time // max(1, codes.nnz // max(1, codes.shape[0])))
        for first in range(0, codes.shape[0], rows):
            block = codes[first : first + rows].tocsc()
            sizes = np.diff(block.indptr)
            places = np.repeat(free - block.indptr[:-1], sizes) + np.arange(block.nnz)
            indices[places], data[places] = block.indices + first, block.data
            free += sizes
        return sparse.csc_array((data, indices, starts), shape=codes.shape)

    def _part(self, name: str, dtype: Any) -> NDArray[Any]:
        file = self._folder / f"{name}.part"
        return np.memmap(file, dtype, "r") if file.stat().st_size else np.zeros(0, dtype)

    def _new(self, name: str, dtype: Any, size: int) -> NDArray[Any]:
        return np.memmap(self._folder / f"{name}.part", dtype, "w+", shape=size) if size else np.zeros(0, dtype)
