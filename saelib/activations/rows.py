"""One way to read tall arrays `[tokens, d_in]`, whatever file they lie in, without loading them whole."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Rows(Protocol):
    """A tall array, read a run of rows at a time. Values are `block(...) + offset`."""

    name: str
    """What messages call it, such as 'smollm2-135m layer 3'."""
    shape: tuple[int, int]
    """tokens, d_in"""
    block_rows: int
    """Rows that are cheap to read together; reads are fastest when they start at a multiple of it."""
    offset: NDArray[np.float32] | None
    """[d_in]; None stands for zero. Kept apart: adding it can cost the precision that it is there to keep."""

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows as stored (float16, float32 or float64), without the offset: [stop - start, d_in]."""
        ...


def read_float32(rows: Rows, start: int, stop: int) -> NDArray[np.float32]:
    """Rows with the offset added, as float32 [stop - start, d_in]; always a fresh array.

    Values beyond float32 become infinite. What was zero when a store was written is exactly zero.
    """
    with np.errstate(over="ignore"):
        values = rows.block(start, stop).astype(np.float32)
        if rows.offset is not None:
            values += rows.offset
    return values


class ArrayRows:
    """An array in memory (or a memory map) as `Rows`."""

    def __init__(
        self,
        values: NDArray[np.floating],
        name: str = "array",
        block_rows: int = 4096,
        offset: NDArray[np.float32] | None = None,
        context: int = 1,
    ) -> None:
        """`values`: floating point [tokens, d_in], without the `offset` [d_in]; `context`: rows of one example."""
        self.values = values
        self.name = name
        self.shape = (values.shape[0], values.shape[1])
        self.block_rows = block_rows
        self.offset = offset
        self.context = context

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows `start` to `stop`: [stop - start, d_in]."""
        return np.asarray(self.values[start:stop])
