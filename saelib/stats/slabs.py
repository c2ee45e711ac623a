"""Reads an array of any length slab by slab: each slab is folded into a small state, and the states are merged."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import Rows

# A slab has so many rows that adding up its Gram matrix costs little compared to multiplying it, in bounded memory.
_SLAB_ROWS = 4096
SLAB_VALUES = 2**23
# A state is as large as its Gram matrices, so there are only few of them, and no more of them for a longer array.
_GROUP_SLABS = 4
_MAX_GROUPS = 32
# A mean this many deviations from zero is subtracted from float64 rows before they are rounded to float32. Subtracting
# a smaller one would cost small rows more precision than it saves.
_FAR = 64
# Exponents of two: of the largest value after scaling, and of the largest scale with a finite epsilon of LayerNorm.
_LARGEST, _MAX_SCALE = 28, 70
_SAMPLE_ROWS = 512
_SAMPLE_BLOCKS = 8


class State(Protocol):
    """Sufficient statistics of some rows."""

    def add(self, values: NDArray[np.float32], start: int) -> None:
        """Adds a slab that starts at row `start`."""
        ...

    def merge(self, other: Self) -> None:
        """Adds the rows of another state."""
        ...


class Pool(Protocol):
    """Workers in other processes (`saelib.stats.cluster.Cluster`)."""

    def compute(self, tasks: Sequence[Any]) -> Sequence[Any]:
        """Computes the values of dask's delayed tasks."""
        ...


Workers: TypeAlias = int | Pool
"""A number of threads of this process, or a pool."""
StateT = TypeVar("StateT", bound=State)


@dataclass(frozen=True)
class Slabs:
    """Rows as float32 `values = (x - base) * scale`, which loses nothing if the rows are float16 or float32."""

    rows: Rows
    base: NDArray[np.float32]
    """[d_in]: the rows' offset. For float64 rows without an offset, it is the median of each dimension whose median is
    so far from zero that float32 cannot hold both it and the variation of the rows, and 0 for all others."""
    scale: float
    """A power of two that makes the usual value about 1, so that fourth powers fit float32 whatever the unit."""
    subtract: bool
    """True if `base` still has to be subtracted from the rows."""
    halves: bool
    """True if the rows are float16, and so contain its rounding errors."""
    sample: NDArray[np.float32]
    """[about 512, d_in]: values from up to eight places; finite tokens only."""

    @property
    def origin(self) -> NDArray[np.float32]:
        """[d_in]: add this to values to get `x * scale`."""
        return self.base * np.float32(self.scale)

    def read(self, start: int, stop: int, columns: slice = slice(None)) -> NDArray[np.float32]:
        """Reads the values of a run of rows: [stop - start, columns]."""
        block = self.rows.block(start, stop)[:, columns]
        if block.dtype == np.float16:
            from saelib.stats.kernels import decode_half

            values = np.empty(block.shape, np.float32)
            decode_half(np.ascontiguousarray(block).view(np.uint16), np.float32(self.scale), values)
            return values
        if self.subtract:
            block = block - self.base[columns]
        with np.errstate(over="ignore"):  # too large values become infinity, which is found and reported
            return np.asarray(block * block.dtype.type(self.scale), np.float32, order="C")

    def bounds(self) -> list[tuple[int, int]]:
        """Returns start and stop of every slab."""
        tokens, d_in = self.rows.shape
        wanted = min(_SLAB_ROWS, max(1, SLAB_VALUES // d_in))
        size = self.rows.block_rows * max(1, wanted // self.rows.block_rows)
        return [(start, min(start + size, tokens)) for start in range(0, tokens, size)]

    def spread(self, tokens: int) -> list[tuple[int, int]]:
        """Returns start and stop of slabs spread evenly over the array, with about `tokens` tokens, or of all slabs."""
        bounds = self.bounds()
        count = max(1, len(bounds) * tokens // self.rows.shape[0])
        if count >= len(bounds):
            return bounds
        return [bounds[place] for place in np.linspace(0, len(bounds) - 1, count).round().astype(int)]

    def fold(self, new: Callable[[], StateT], workers: Workers) -> StateT:
        """Computes the state of all rows: one state for each group of slabs, merged in pairs.

        Grouping and order depend only on the rows, so the result is the same to the last bit for any `workers`.
        """
        from dask.delayed import delayed

        bounds = self.bounds()
        size = max(_GROUP_SLABS, -(-len(bounds) // _MAX_GROUPS))
        reader, start = delayed(self.reader, traverse=False), delayed(new)
        parts = [delayed(_fold_group)(reader, start, bounds[i : i + size]) for i in range(0, len(bounds), size)]
        merge = _merge if isinstance(workers, int) else _merge_copy
        while len(parts) > 1:
            pairs = [delayed(merge)(*parts[i : i + 2]) for i in range(0, len(parts) - 1, 2)]
            parts = pairs + parts[2 * len(pairs) :]
        return run(parts, workers)[0]

    @property
    def reader(self) -> Self:
        """A copy without the sample, which is sent to other processes to read rows there."""
        return replace(self, sample=self.sample[:0])


def _fold_group(slabs: Slabs, new: Callable[[], StateT], group: list[tuple[int, int]]) -> StateT:
    state = new()
    for start, stop in group:
        state.add(slabs.read(start, stop), start)
    return state


def _merge(left: StateT, right: StateT) -> StateT:
    left.merge(right)
    return left


def _merge_copy(left: StateT, right: StateT) -> StateT:
    """Merges into a copy: on a cluster, `left` may be needed again after a worker was lost."""
    return _merge(deepcopy(left), right)


def run(tasks: Sequence[Any], workers: Workers) -> Sequence[Any]:
    """Computes the values of dask's delayed tasks."""
    if not isinstance(workers, int):
        return workers.compute(tasks)
    from dask.base import compute

    if workers == 1:
        return compute(*tasks, scheduler="synchronous")
    return compute(*tasks, scheduler="threads", num_workers=workers)


def open_slabs(rows: Rows) -> Slabs:
    """Chooses base and scale from a sample of the rows."""
    sample = _sample(rows)
    subtract = rows.offset is None and sample.dtype == np.float64
    values = sample.astype(np.float64)
    # These are medians because one massive token would shift a mean so far that the other tokens lose their precision.
    center = np.median(values, axis=0)
    distances = np.abs(values - center)
    if rows.offset is not None:
        base = rows.offset
    elif subtract:
        base = np.where(np.abs(center) > _FAR * np.median(distances, axis=0), center, 0).astype(np.float32)
        values -= base
    else:
        base = np.zeros(rows.shape[1], np.float32)
    scale = _scale(distances)
    return Slabs(rows, base, scale, subtract, sample.dtype == np.float16, (values * scale).astype(np.float32))


def _scale(distances: NDArray[np.float64]) -> float:
    """Returns a power of two that makes the usual distance about 1, unless the largest one's fourth power overflows."""
    if not distances.any():
        return 1.0
    exponent = -round(math.log2(np.median(distances[distances > 0])))
    return 2.0 ** max(min(exponent, _LARGEST - math.ceil(math.log2(distances.max())), _MAX_SCALE), -100)


def _sample(rows: Rows) -> NDArray[np.floating]:
    """Reads finite tokens from up to eight blocks spread over the array; one token of zeros if none is finite."""
    tokens, d_in = rows.shape
    blocks = -(-tokens // rows.block_rows)
    chosen = np.unique(np.linspace(0, blocks - 1, _SAMPLE_BLOCKS).round().astype(int))
    count = min(rows.block_rows, -(-_SAMPLE_ROWS // len(chosen)))
    starts = [int(block) * rows.block_rows for block in chosen]
    sample = np.concatenate([rows.block(start, min(start + count, tokens)) for start in starts])
    with np.errstate(over="ignore"):
        sample = sample[np.isfinite(sample.astype(np.float32)).all(1)]
    return sample if len(sample) else np.zeros((1, d_in), sample.dtype)
