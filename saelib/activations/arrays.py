"""Arrays and tensors as `Rows`: in memory, or elsewhere and read a slice at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.errors import UserError

BLOCK_ROWS = 4096
"""Rows of an array elsewhere that are read together."""


class SlicedRows:
    """An array of zarr, dask, h5py and the like as `Rows`: read a slice at a time, and never whole."""

    def __init__(self, array: Any, name: str) -> None:
        """Checks the array's shape and type; [n, context, d_in] is n * context rows."""
        check_array(array.dtype, array.shape, name)
        self.context = array.shape[1] if len(array.shape) == 3 else 1
        """Rows of one example; 1 where that is not known."""
        self.name = name
        self.offset: NDArray[np.float32] | None = None
        self.shape = (array.shape[0] * self.context, array.shape[-1])
        self.block_rows = self.context * max(1, BLOCK_ROWS // self.context)
        self._array = array

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Reads rows `start` to `stop`: [stop - start, d_in]."""
        first = start // self.context
        values = np.asarray(self._array[first : -(-stop // self.context)]).reshape(-1, self.shape[1])
        return values[start - first * self.context : stop - first * self.context]


def is_sliced(source: Any) -> bool:
    """Tells an array that lies elsewhere, with a shape and a type of its own, from one in memory."""
    described = all(hasattr(source, name) for name in ("shape", "dtype", "__getitem__"))
    return described and not isinstance(source, np.ndarray | np.generic) and not hasattr(source, "detach")


def check_array(dtype: Any, shape: tuple[int, ...], name: str) -> None:
    """Raises `UserError` where an array is not floating point [tokens, d_in] or [n, context, d_in]."""
    if np.dtype(dtype).kind != "f":
        raise UserError(f"{name}: holds {dtype}; activations are floating point")
    if len(shape) not in (2, 3) or 0 in shape:
        raise UserError(f"{name}: has the shape {list(shape)}; should be [tokens, d_in] or [n, context, d_in]")


def in_memory(source: Any, name: str) -> ArrayRows:
    """Takes an array or tensor, or what numpy makes an array of, as rows."""
    values = to_numpy(source)
    check_array(values.dtype, values.shape, name)
    context = values.shape[1] if values.ndim == 3 else 1
    return ArrayRows(values.reshape(-1, values.shape[-1]), name, context=context)


def to_numpy(source: Any) -> NDArray[Any]:
    """Torch's bfloat16, which numpy lacks, becomes float32."""
    if hasattr(source, "detach"):
        tensor = source.detach().cpu()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return np.asarray(source)
