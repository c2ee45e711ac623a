"""Training batches straight from a model's forward pass, through a shuffle buffer: several layers from one pass."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.activations.rows import ArrayRows
from saelib.config.sites import Layer
from saelib.devices.copies import to_device
from saelib.errors import UserError
from saelib.store.rounding import round_on_device, round_rows

if TYPE_CHECKING:
    from saelib.extract.batches import OpenBatches

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """A place among a model's training rows, which repeat in the same order once all have been seen."""

    epoch: int = 0
    batch: int = 0
    """Number of the forward pass within the epoch."""
    rows: int = 0
    """Number of rows of that pass before the place."""


START = Position()


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of one forward pass."""

    start: Position
    layers: Mapping[Layer, Any]
    """Layer -> float32 [tokens, d_in], an array or a tensor."""

    @property
    def rows(self) -> int:
        """Its length."""
        return len(next(iter(self.layers.values())))

    def split(self, rows: int) -> tuple["Piece", "Piece"]:
        """The first `rows` rows, and the others."""
        first = {layer: acts[:rows] for layer, acts in self.layers.items()}
        others = {layer: acts[rows:] for layer, acts in self.layers.items()}
        place = Position(self.start.epoch, self.start.batch, self.start.rows + rows)
        return Piece(self.start, first), Piece(place, others)


class StreamedBatches:
    """Endless batches of rows from a model, mixed by a buffer that is filled, drained in random order, then refilled.

    The order depends on the seed and the sizes alone. What a buffer holds depends on where it
    began, and on nothing before: training that was killed resumes by running the model from there.

    Rows are rounded as a store rounds them, about the store's own offset: the same activations, the same bits. Rows
    that float16 does not keep stay what they are, and their buffer is float32. Where the store is float32 no row is
    rounded here, while the store has rounded those that came before the first that float16 did not keep.
    """

    def __init__(
        self,
        batches: "OpenBatches",
        offsets: Mapping[Layer, NDArray[np.float32] | None],
        *,
        name: str,
        batch_size: int,
        buffer_rows: int,
        seed: int,
        threads: int,
        device: str | None = None,
    ) -> None:
        """Nothing is computed yet.

        Args:
            batches: The model.
            offsets: Layer -> [d_in], subtracted before rounding; None: rows are not rounded.
            name: What messages call the model.
            batch_size: Rows of a batch.
            buffer_rows: Rows of a buffer, rounded down to whole batches; at least one batch.
            seed: Decides the order.
            threads: torch's, while the model runs; they may decide the last bits.
            device: A GPU that buffers lie on; None: memory of the host.
        """
        self._device = device
        self._batches, self._offsets, self._name = batches, offsets, name
        self._batch_size, self._seed, self._threads = batch_size, seed, threads
        self._per_buffer = max(1, buffer_rows // batch_size)
        self.position = START
        """Start of the buffer that the next batch comes from; given this, `batches` resumes here."""

    def batches(self, start: int, position: Position) -> Iterator[dict[Layer, "ArrayRows | DeviceRows"]]:
        """Batches number `start`, `start` + 1, … without end: layer -> rows [batch_size, d_in], as a store has them.

        Args:
            start: Number of the first batch.
            position: What `self.position` was after batch `start` - 1; `START` if `start` is 0.

        Raises:
            UserError: if the model raises it, or gives no training row.
        """
        pieces = _Pieces(self._batches, position, self._name)
        self.position = position
        first_buffer, first = divmod(start, self._per_buffer)
        for number in count(first_buffer):
            rows = self._per_buffer * self._batch_size
            order = np.random.default_rng((self._seed, number)).permutation(rows)
            buffer = self._fill(pieces, rows)
            for end in range((first + 1) * self._batch_size, rows + 1, self._batch_size):
                if end == rows:
                    self.position = pieces.position
                chosen = order[end - self._batch_size : end]
                yield {layer: rows.take(chosen, f"{self._name} layer {layer}") for layer, rows in buffer.items()}
            del buffer  # before the next one is made
            first = 0

    def _fill(self, pieces: "_Pieces", rows: int) -> dict[Layer, "_Buffer | _DeviceBuffer"]:
        """The next rows of every layer."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            buffer: dict[Layer, _Buffer | _DeviceBuffer] = {}
            filled = 0
            while filled < rows:
                piece = pieces.next(rows - filled)
                for layer, offset in self._offsets.items():
                    acts = piece.layers[layer]
                    if layer not in buffer:
                        buffer[layer] = self._buffer(rows, acts.shape[1], offset)
                    buffer[layer].put(filled, acts)
                filled += piece.rows
            return buffer
        finally:
            torch.set_num_threads(before)

    def _buffer(self, rows: int, d_in: int, offset: NDArray[np.float32] | None) -> "_Buffer | _DeviceBuffer":
        return _Buffer(rows, d_in, offset) if self._device is None else _DeviceBuffer(rows, d_in, offset, self._device)


class _Buffer:
    """Rows of one layer: float16 about an offset as long as that keeps every row, then float32 without one."""

    def __init__(self, rows: int, d_in: int, offset: NDArray[np.float32] | None) -> None:
        self.values: NDArray[np.floating] = np.zeros((rows, d_in), np.float32 if offset is None else np.float16)
        self.offset = offset
        self._rounds_about = offset

    def put(self, start: int, acts: NDArray[np.float32]) -> None:
        """Writes rows at `start`. What a row becomes depends on this row alone."""
        stored: NDArray[np.floating] = acts
        if self._rounds_about is not None:
            rounded = round_rows(acts, self._rounds_about)
            if self.offset is not None and not rounded.kept.all():
                self.values = self.values + self.offset
                self.offset = None
            stored = rounded.halves
            if self.offset is None:
                stored = np.where(rounded.kept[:, None], rounded.halves + self._rounds_about, acts)
        self.values[start : start + len(acts)] = stored

    def take(self, places: NDArray[np.int64], name: str) -> ArrayRows:
        """Rows at some places, under a name for messages."""
        return ArrayRows(self.values[places], name, offset=self.offset)


@dataclass(frozen=True, eq=False)
class DeviceRows:
    """Rows on a GPU, without their offset."""

    values: Tensor
    """[tokens, d_in], float16 or float32."""
    offset: NDArray[np.float32] | None


class _DeviceBuffer:
    """The same rows as in `_Buffer`, on a GPU and rounded there."""

    def __init__(self, rows: int, d_in: int, offset: NDArray[np.float32] | None, device: str) -> None:
        self.offset, self._device = offset, device
        self._rounds_about = None if offset is None else torch.from_numpy(offset).to(device)
        dtype = torch.float32 if offset is None else torch.float16
        self._values = torch.zeros(rows, d_in, dtype=dtype, device=device)

    def put(self, start: int, acts: NDArray[np.float32] | Tensor) -> None:
        """Writes rows at `start`, as `_Buffer` does. Rows that the model left on the GPU do not leave it.

        It waits for the GPU once, as the check for finite rows has done anyway.
        """
        on_host = isinstance(acts, np.ndarray)
        stored = whole = to_device(np.ascontiguousarray(acts), self._device) if on_host else acts.to(self._device)
        about = self._rounds_about
        if about is not None:
            stored, kept = round_on_device(whole, about)
            if self.offset is not None and not bool(kept.all()):
                self._values = self._values.float().add_(about)
                self.offset = None
            if self.offset is None:
                stored = torch.where(kept[:, None], stored.float() + about, whole)
        self._values[start : start + len(acts)] = stored

    def take(self, places: NDArray[np.int64], name: str) -> DeviceRows:
        """Rows at some places."""
        return DeviceRows(self._values.index_select(0, to_device(places, self._device)), self.offset)


class _Pieces:
    """A model's training rows, as many at a time as are wanted."""

    def __init__(self, batches: "OpenBatches", position: Position, name: str) -> None:
        self._name = name
        self._stream = self._run(batches, position)
        self._rest: Piece | None = None
        self.position = position
        """Position of the next row."""

    def next(self, at_most: int) -> Piece:
        """The next rows: at least one."""
        piece = self._rest or next(self._stream)
        self._rest = None
        if piece.rows > at_most:
            piece, self._rest = piece.split(at_most)
        start = piece.start
        self.position = self._rest.start if self._rest else Position(start.epoch, start.batch + 1)
        return piece

    def _run(self, batches: "OpenBatches", position: Position) -> Iterator[Piece]:
        """The model's rows from `position` on, epoch after epoch."""
        first, skip = position.batch, position.rows
        for epoch in count(position.epoch):
            if epoch > position.epoch:
                log.info("%s: all its data have been seen %d times, and come again", self._name, epoch)
            empty = True
            for batch in batches("train", first):
                empty = False
                whole = Piece(Position(epoch, batch.number), batch.layers)
                yield whole.split(skip)[1] if skip else whole
                skip = 0
            if empty and first == 0:
                raise UserError(
                    f"{self._name}: its data give no training token; give more data, or a smaller share of them to the "
                    f"held-out split (heldout_fraction)"
                )
            first = 0
