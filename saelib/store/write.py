"""Write stores: several layers at once, from one stream of activations."""

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from saelib.errors import UserError
from saelib.store.layout import Split, StoreMetadata
from saelib.store.places import Place, move
from saelib.store.rounding import Dimensions, lengths, round_rows, why_not

CACHED_VALUES = 2**17
"""Rounded and checked at a time: all that is made of them stays in cache."""


class StoreWriter:
    """Writes one layer's store into `folder`, which its caller publishes (`saelib.store.published_stores`).

    Rows are shuffled inside windows of `window_rows`, so that neighbors in the store are not neighbors in a
    document. Every layer of a model gets the same order. Without it, a chunk of one document each leaves
    batch means tens of standard errors off.

    A split is float16 about the offset while that keeps every row (`saelib.store.rounding`). From the first rows that
    it does not keep, the split is float32 without an offset, and holds what it is given; earlier rows stay as they
    were rounded.
    """

    def __init__(
        self,
        folder: Place,
        *,
        tokens: dict[Split, int],
        d_in: int,
        offset: NDArray[np.floating],
        chunk_rows: int,
        window_rows: int,
        seed: int,
    ) -> None:
        """`tokens`: exactly this many rows must follow for each split; `offset`: [d_in], subtracted before rounding."""
        self.folder = folder
        self.offset = offset.astype(np.float32)
        self.splits: dict[Split, _SplitWriter] = {
            split: _SplitWriter(folder / split, count, self.offset, chunk_rows, window_rows, (seed, index))
            for index, (split, count) in enumerate(tokens.items())
        }
        _create(folder / "offset", (d_in,), (d_in,), "float32")[:] = self.offset

    def append(self, split: Split, acts: NDArray[np.float32], example: NDArray[np.int32]) -> None:
        """Add rows [tokens, d_in]; `example` [tokens] numbers the examples they came from. All values are finite."""
        self.splits[split].append(acts, example)

    def finish(self, metadata: StoreMetadata) -> None:
        """Write the attributes, last of all. Raises `UserError` when rows are missing."""
        for split, writer in self.splits.items():
            if writer.filled != writer.tokens:
                raise UserError(f"{self.folder}: {split} has {writer.filled} of {writer.tokens} rows")
        zarr.create_group(self.folder, attributes=metadata.to_attributes(), zarr_format=3)

    @property
    def index_rows(self) -> int:
        """Rows of a chunk of `norm` and `example`."""
        return self.splits["train"].window_rows

    @property
    def dtypes(self) -> dict[str, str]:
        """Split -> dtype its activations were stored in."""
        return {split: str(writer.acts.dtype) for split, writer in self.splits.items()}

    @property
    def reasons(self) -> dict[str, str]:
        """Split -> why it is float32, in a sentence; nothing for those in float16."""
        return {split: writer.reason for split, writer in self.splits.items() if writer.reason is not None}


class _SplitWriter:
    def __init__(
        self,
        folder: Place,
        tokens: int,
        offset: NDArray[np.float32],
        chunk_rows: int,
        window_rows: int,
        seed: tuple[int, int],
    ) -> None:
        self.folder, self.tokens, self.offset, self.chunk_rows = folder, tokens, offset, chunk_rows
        self.d_in = len(offset)
        self.dimensions = Dimensions(self.d_in)
        self.reason: str | None = None
        # Whole chunks, so that windows and chunks end together.
        self.window_rows = max(1, window_rows // chunk_rows) * chunk_rows
        self.order = np.random.default_rng(seed)
        self.filled = 0
        self.acts = self._create_acts("acts", "float16")
        # A number for each row: a chunk for each window, because small files cost more than they hold.
        self.norm = _create(folder / "norm", (tokens,), (self.window_rows,), "float32")
        self.example = _create(folder / "example", (tokens,), (self.window_rows,), "int32")
        self._new_window()

    def append(self, acts: NDArray[np.float32], example: NDArray[np.int32]) -> None:
        step = max(1, CACHED_VALUES // self.d_in)
        for start in range(0, len(acts), step):
            self._append(acts[start : start + step], example[start : start + step])

    def _append(self, acts: NDArray[np.float32], example: NDArray[np.int32]) -> None:
        norm, values = lengths(acts), self._stored(acts)
        while len(values):
            room = min(len(values), len(self.places) - self.used)
            places = self.places[self.used : self.used + room]
            self.window[places] = values[:room]
            self.window_norm[places] = norm[:room]
            self.window_example[places] = example[:room]
            self.used += room
            if self.used == len(self.places):
                self._write_window()
            values, norm, example = values[room:], norm[room:], example[room:]
            if self.filled == self.tokens and len(values):
                raise ValueError(f"more rows than the {self.tokens} announced")

    def _stored(self, acts: NDArray[np.float32]) -> NDArray[np.floating]:
        """Rows as the split holds them, which becomes float32 where they need it."""
        if self.reason is None:
            rounded = round_rows(acts, self.offset)
            self.reason = why_not(rounded, self.dimensions, acts)
            if self.reason is None:
                return rounded.halves
            self._widen()
        return acts

    def _new_window(self) -> None:
        rows = min(self.window_rows, self.tokens - self.filled)
        self.places = self.order.permutation(rows)
        self.used = 0
        self.window = np.empty((rows, self.d_in), self.acts.dtype)
        self.window_norm = np.empty(rows, np.float32)
        self.window_example = np.empty(rows, np.int32)

    def _write_window(self) -> None:
        span = slice(self.filled, self.filled + self.used)
        self.acts[span], self.norm[span], self.example[span] = (
            self.window,
            self.window_norm,
            self.window_example,
        )
        self.filled += self.used
        self._new_window()

    def _widen(self) -> None:
        """Go on in float32, with the offset added to all rows so far."""
        wide = self._create_acts("acts.wide", "float32")
        for start in range(0, self.filled, self.chunk_rows):
            span = slice(start, start + self.chunk_rows)
            wide[span] = np.asarray(self.acts[span]) + self.offset
        move(self.folder / "acts.wide", self.folder / "acts")
        self.acts = zarr.open_array(self.folder / "acts", mode="r+", config={"write_empty_chunks": True})
        halves, used = self.window, self.places[: self.used]
        self.window = np.empty(halves.shape, np.float32)
        self.window[used] = halves[used] + self.offset

    def _create_acts(self, name: str, dtype: str) -> zarr.Array:
        return _create(self.folder / name, (self.tokens, self.d_in), (self.chunk_rows, self.d_in), dtype)


def _create(path: Place, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> zarr.Array:
    return zarr.create_array(
        path,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        compressors=[Crc32cCodec()],
        fill_value=-1 if dtype.startswith("int") else float("nan"),
        # zarr leaves out chunks that equal the fill value; a store counts a chunk that is not there as lost.
        config={"write_empty_chunks": True},
        zarr_format=3,
        overwrite=True,
    )
