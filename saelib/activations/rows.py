"""One way to read tall arrays `[tokens, d_in]` piece by piece, whatever file they are stored in."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Rows(Protocol):
    """A tall array that is read a run of rows at a time. Its values are `block(...) + offset`."""

    name: str
    """The name that messages use, such as 'smollm2-135m layer 3'."""
    shape: tuple[int, int]
    """(tokens, d_in)."""
    block_rows: int
    """Number of rows that are cheap to read together; reads are fastest if they start at a multiple of it."""
    offset: NDArray[np.float32] | None
    """[d_in]; None stands for zero. It is kept apart because adding it can cost the precision that it preserves."""

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Reads rows as they are stored (float16, float32 or float64), without the offset: [stop - start, d_in]."""
        ...


def read_float32(rows: Rows, start: int, stop: int) -> NDArray[np.float32]:
    """Reads rows and adds the offset: float32 [stop - start, d_in], always a fresh array.

    Values beyond the range of float32 become infinite. Values that were zero when a store was written are exactly
    zero again.
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
        """Takes `values`, floating point [tokens, d_in] without the `offset` [d_in]; `context` rows are an example."""
        self.values = values
        self.name = name
        self.shape = (values.shape[0], values.shape[1])
        self.block_rows = block_rows
        self.offset = offset
        self.context = context

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Returns the rows `start` to `stop`: [stop - start, d_in]."""
        return np.asarray(self.values[start:stop])
