"""Reads the inputs of the measures (arrays, tensors, paths, sparse matrices) as matrices of one kind."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from saelib.activations.arrays import in_memory, to_numpy
from saelib.activations.rows import Rows, read_float32
from saelib.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    Matrix: TypeAlias = "ArrayLike | Tensor | Rows | str | Path"
    Codes: TypeAlias = "ArrayLike | Tensor | sparse.sparray | sparse.spmatrix"
else:
    Matrix = Codes = Any
"""`Matrix` is anything that holds a dense matrix in floating point, and `Codes` is one of latents, often sparse."""


def open_matrix(source: Matrix, name: str) -> Rows:
    """Opens activations [tokens, d] to be read some rows at a time; takes the same as `read_matrix`.

    Raises:
        UserError: If it is not floating point [tokens, d].
    """
    if isinstance(source, str | Path):
        from saelib.activations.open import open_rows

        return open_rows(source)
    rows: Any = getattr(source, "rows", source)
    return rows if callable(getattr(rows, "block", None)) else in_memory(source, name)


def read_matrix(source: Matrix, name: str) -> NDArray[np.floating]:
    """Reads a whole matrix, float32 or float64 [rows, d].

    Args:
        source: An array, a tensor, opened activations, or a path to a file of activations.
        name: The name of the matrix in messages.

    Raises:
        UserError: If it is not a matrix of numbers, if it is empty, or if a value is NaN or infinite.
    """
    if isinstance(source, str | Path) or hasattr(source, "rows") or hasattr(source, "block"):
        rows = open_matrix(source, name)
        values = read_float32(rows, 0, rows.shape[0])
    else:
        values = to_numpy(source)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fiub":
        raise UserError(f"{name}: got {values.dtype} of shape {list(values.shape)}; should be numbers [rows, d]")
    values = values.astype(np.float32 if values.dtype.itemsize < 4 else np.result_type(values, np.float32), copy=False)
    if not np.isfinite(values).all():
        raise UserError(f"{name}: holds NaN or infinity")
    return values


def read_codes(source: Codes, name: str) -> Any:
    """Reads activations of latents or features as a `csr_array` [tokens, latents] of its own, without stored zeros.

    Args:
        source: A matrix of scipy.sparse, or a dense array or tensor.
        name: The name of the matrix in messages.

    Raises:
        UserError: If it is not a matrix of numbers, or if a value is NaN or infinite.
    """
    values: Any = source if sparse.issparse(source) else to_numpy(source)
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise UserError(f"{name}: got {values.dtype} of shape {list(values.shape)}; should be numbers [tokens, n]")
    codes = sparse.csr_array(values, copy=True)
    if not np.isfinite(codes.data).all():
        raise UserError(f"{name}: holds NaN or infinity")
    codes.sum_duplicates()
    codes.eliminate_zeros()
    return codes


def check_widths(first: NDArray[Any], second: NDArray[Any], names: tuple[str, str]) -> None:
    """Raises `UserError` if the rows of two matrices differ in length."""
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"{names[0]} have {first.shape[1]} dimensions and {names[1]} {second.shape[1]}; should be one number, "
            "with one direction per row"
        )
