"""Writes a store from a stream of activations, row by row."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from saelib.errors import UserError
from saelib.store.layout import Split, StoreMetadata
from saelib.store.places import Place, move
from saelib.store.rounding import Dimensions, lengths, round_rows, why_not

if TYPE_CHECKING:
    from saelib.store.kept import KeptRows

CACHED_VALUES = 2**17
"""Number of values that are rounded and checked at a time, so that all intermediate arrays stay in the CPU's cache."""


class StoreWriter:
    """Writes one layer's store into `folder`, which its caller publishes (`saelib.store.published_stores`).

    Rows are shuffled inside windows of `window_rows`, so that neighbors in the store are not neighbors in a document.
    Every layer of a model gets the same order. Without the shuffle, each chunk would come from one document, and the
    means of batches would be tens of standard errors off.

    A split is float16, minus the offset, as long as that is precise enough for every row (`saelib.store.rounding`).
    From the first rows for which it is not, the split is float32 without an offset and holds exactly what it is given.
    Earlier rows keep the values that they were rounded to.
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
        kept: "Mapping[Split, KeptRows] | None" = None,
    ) -> None:
        """Creates the arrays of a store.

        Args:
            folder: The place to write to.
            tokens: Split -> number of rows, exactly as many as will be appended.
            d_in: Width of a row.
            offset: [d_in], subtracted before rounding.
            chunk_rows: Number of rows in a chunk.
            window_rows: Number of rows that are shuffled together.
            seed: Decides the order of the rows.
            kept: Split -> rows on a device that get every window too.
        """
        self.folder = folder
        self.offset = offset.astype(np.float32)
        self.splits: dict[Split, _SplitWriter] = {
            split: _SplitWriter(
                folder / split, count, self.offset, chunk_rows, window_rows, (seed, index), (kept or {}).get(split)
            )
            for index, (split, count) in enumerate(tokens.items())
        }
        _create(folder / "offset", (d_in,), (d_in,), "float32")[:] = self.offset

    def append(self, split: Split, acts: NDArray[np.float32], example: NDArray[np.int32]) -> None:
        """Appends finite rows [tokens, d_in]; `example` [tokens] holds the number of the example of each row."""
        self.splits[split].append(acts, example)

    def finish(self, metadata: StoreMetadata) -> None:
        """Writes the attributes, last of all. Raises `UserError` if rows are missing."""
        for split, writer in self.splits.items():
            if writer.filled != writer.tokens:
                raise UserError(f"{self.folder}: {split} has {writer.filled} of {writer.tokens} rows")
        zarr.create_group(self.folder, attributes=metadata.to_attributes(), zarr_format=3)

    @property
    def index_rows(self) -> int:
        """Number of rows in a chunk of `norm` and `example`."""
        return self.splits["train"].window_rows

    @property
    def dtypes(self) -> dict[str, str]:
        """Splits -> dtype of its stored activations."""
        return {split: str(writer.acts.dtype) for split, writer in self.splits.items()}

    @property
    def reasons(self) -> dict[str, str]:
        """Splits -> one sentence that says why it is float32; splits in float16 have none."""
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
        kept: "KeptRows | None",
    ) -> None:
        self.folder, self.tokens, self.offset, self.chunk_rows = folder, tokens, offset, chunk_rows
        self.kept = kept
        self.d_in = len(offset)
        self.dimensions = Dimensions(self.d_in)
        self.reason: str | None = None
        # A window is a whole number of chunks, so that a chunk never crosses the end of a window.
        self.window_rows = max(1, window_rows // chunk_rows) * chunk_rows
        self.order = np.random.default_rng(seed)
        self.filled = 0
        self.acts = self._create_acts("acts", "float16")
        # These arrays have one number per row, so a chunk is a whole window: many small files would be slow.
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
        """Returns the rows as they will be stored, and turns the split into float32 if they need it."""
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
        if self.kept is not None:
            self.kept.write(self.filled, self.window)
        self.filled += self.used
        self._new_window()

    def _widen(self) -> None:
        """Turns the split into float32, adding the offset to all rows so far."""
        wide = self._create_acts("acts.wide", "float32")
        for start in range(0, self.filled, self.chunk_rows):
            span = slice(start, start + self.chunk_rows)
            wide[span] = np.asarray(self.acts[span]) + self.offset
        move(self.folder / "acts.wide", self.folder / "acts")
        self.acts = zarr.open_array(self.folder / "acts", mode="r+", config={"write_empty_chunks": True})
        halves, used = self.window, self.places[: self.used]
        self.window = np.empty(halves.shape, np.float32)
        self.window[used] = halves[used] + self.offset
        if self.kept is not None:
            self.kept.widen()

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
        # By default, zarr leaves out chunks that hold only the fill value, but a store treats a missing chunk as lost.
        config={"write_empty_chunks": True},
        zarr_format=3,
        overwrite=True,
    )
