"""Opens activations from arrays, tensors and files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelib.activations.rows import ArrayRows, Rows, read_float32
from saelib.errors import UserError
from saelib.extras import explain_missing_extras

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
        source: A numpy array or torch tensor [tokens, d_in] or [n, context, d_in], anything that numpy makes such an
            array of, or a path. Paths may name files of any size, in every format that `saelib stats` reads.
            `PATH::NAME` names one of several arrays in a file. A store gives its training rows, and `STORE::heldout`
            its held-out rows.
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
    return Activations(_in_memory(source, name))


def _in_memory(source: Any, name: str) -> ArrayRows:
    values = _to_numpy(source)
    if values.dtype.kind != "f":
        raise UserError(f"{name}: holds {values.dtype}; activations are floating point")
    if values.ndim == 3:
        values = values.reshape(-1, values.shape[-1])
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"{name}: has the shape {list(values.shape)}; should be [tokens, d_in] or [n, context, d_in]")
    return ArrayRows(values, name)


def _to_numpy(source: Any) -> NDArray[Any]:
    """Turns a tensor or array-like into a numpy array; torch's bfloat16, which numpy lacks, becomes float32."""
    if hasattr(source, "detach"):
        tensor = source.detach().cpu()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return np.asarray(source)
