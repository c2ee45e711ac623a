"""Opens activations from arrays, tensors and files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelib.activations.arrays import SlicedRows, in_memory, is_sliced
from saelib.activations.rows import Rows, read_float32
from saelib.environments import explain_missing_extras
from saelib.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    Source: TypeAlias = "Activations | Rows | ArrayLike | Tensor | str | Path"
else:
    Source = Any
"""Anything that holds activations."""


class Activations:
    """Activations [tokens, d_in] of any size, which are read some rows at a time. `open_activations` makes it.

    `len(acts)` is the number of tokens, `acts.shape` is (tokens, d_in), and `acts[start:stop]` reads rows as float32.
    """

    def __init__(self, rows: Rows) -> None:
        """Wraps rows that are already open."""
        self.rows = rows

    @property
    def name(self) -> str:
        """The name of these activations in messages."""
        return self.rows.name

    @property
    def shape(self) -> tuple[int, int]:
        """The number of tokens and the width, (tokens, d_in)."""
        return self.rows.shape

    def __len__(self) -> int:
        """Counts the tokens."""
        return self.shape[0]

    def __getitem__(self, which: slice) -> NDArray[np.float32]:
        """Reads a run of rows: float32 [tokens, d_in]."""
        if not isinstance(which, slice) or (which.step or 1) < 1:
            raise UserError(f"{self.name}: rows are read as acts[start:stop], forward")
        start, stop, step = which.indices(len(self))
        return read_float32(self.rows, start, max(start, stop))[::step]

    def __repr__(self) -> str:
        """Shows the name and the sizes."""
        return f"Activations({self.name!r}, {self.shape[0]:,} tokens x {self.shape[1]:,})"


@explain_missing_extras()
def open_activations(source: Source, name: str = "activations") -> Activations:
    """Opens activations for the functions of `saelib`. They also do so themselves, for whatever they are given.

    Args:
        source: A numpy array or torch tensor [tokens, d_in] or [n, context, d_in], an array of zarr, dask or h5py
            (which is read a slice at a time), anything that numpy makes such an array of, or a path: every format that
            `saelib stats` reads, files of any size. `PATH::NAME` names one array of several. A store gives its training
            rows, or, as `STORE::heldout`, the others.
        name: The name of an array or tensor in messages.

    Raises:
        UserError: If the file is missing or has an unknown format, or if the array has another shape or type.

    Example:
        >>> acts = saelib.open_activations(np.random.default_rng(0).normal(size=(1000, 16)))
        >>> acts
        Activations('activations', 1,000 tokens x 16)
        >>> acts[:2].shape
        (2, 16)
    """
    if isinstance(source, Activations):
        return source
    if isinstance(source, str | Path):
        from saelib.activations.open import open_rows

        return Activations(open_rows(source))
    if callable(getattr(source, "block", None)):
        return Activations(source)  # pyright: ignore[reportArgumentType] (a protocol without a runtime check)
    if is_sliced(source):
        return Activations(SlicedRows(source, name))
    return Activations(in_memory(source, name))
