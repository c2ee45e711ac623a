"""Training batches for a GPU: stored rows lie there as they are stored, and batches are made of them there."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.activations.rows import Rows
from saelib.devices.copies import to_device
from saelib.train.batches_from_store import check_fills_a_batch
from saelib.train.order import WINDOW_BYTES, WindowOrder

Window = tuple[int, tuple[int, ...], NDArray[np.int64]]
"""An epoch, blocks of stored rows, and the order in which their rows are read (`WindowOrder`)."""
Held = tuple[int, Tensor, NDArray[np.int64]]
"""An epoch, stored rows on the device, and the places among them of a window's rows, in their order."""


class DeviceBatches:
    """The batches of `ShuffledBatches`, in the same order, gathered on a device and preprocessed there.

    All rows stay on the device in the dtype of the store if they fit. Otherwise two windows of them are there: while
    batches are made of one, a thread reads the next one into pinned memory and a stream of its own copies it.
    """

    def __init__(
        self,
        rows: Rows,
        read: Callable[[Tensor], Tensor],
        width: int,
        batch_size: int,
        *,
        seed: int,
        device: str,
        room: float,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        """Nothing is read yet.

        Args:
            rows: Rows as stored.
            read: Makes of stored rows [batch_size, d_in], without the offset, what the SAE reads: float32
                [batch_size, width].
            width: Dimensions that the SAE reads.
            batch_size: Rows of a batch.
            seed: Decides the order.
            device: The device, as torch calls it.
            room: Bytes of the device that rows may take.
            window_bytes: See `WindowOrder`.

        Raises:
            UserError: if `rows` has fewer rows than one batch.
        """
        check_fills_a_batch(rows, batch_size)
        self._read, self._batch_size, self._tokens, self._device = read, batch_size, rows.shape[0], device
        self._order = WindowOrder(rows.shape[0], rows.block_rows, width, seed, window_bytes)
        value_bytes = rows.block(0, 1).dtype.itemsize
        self.resident = rows.shape[0] * rows.shape[1] * value_bytes <= room
        """True if all rows fit."""
        kind = AllRows if self.resident else TwoWindows
        self._held = kind(rows, self._order, device)

    def batches(self, start: int = 0) -> Iterator[Tensor]:
        """Batches number `start`, `start` + 1, … without end: float32 [batch_size, width] on the device.

        A batch lasts until the next one is asked for.
        """
        parts: list[Tensor] = []
        wanted, current = self._batch_size, -1
        for epoch, values, places in self._held.windows(self._windows(start)):
            if epoch != current:  # rows that did not fill the last batch of an epoch are left out
                parts, wanted, current = [], self._batch_size, epoch
            left = to_device(places, self._device)
            while len(left):
                parts.append(values.index_select(0, left[:wanted]))
                left, wanted = left[wanted:], wanted - len(parts[-1])
                if not wanted:
                    yield self._read(torch.cat(parts) if len(parts) > 1 else parts[0])
                    parts, wanted = [], self._batch_size
            del values  # so that the window is gone before the one after the next is made

    def _windows(self, start: int) -> Iterator[Window]:
        """All windows, epoch after epoch, from batch number `start` on."""
        epoch, first = divmod(start, self._tokens // self._batch_size)
        for number in count(epoch):
            skip = first * self._batch_size if number == epoch else 0
            for blocks, order in self._order.windows(number, skip):
                yield number, blocks, order


class AllRows:
    """All rows on the device."""

    def __init__(self, rows: Rows, order: WindowOrder, device: str) -> None:
        """Rows are read when the first window is asked for."""
        self._rows, self._order, self._device = rows, order, device
        self._values: Tensor | None = None

    def windows(self, wanted: Iterator[Window]) -> Iterator[Held]:
        """The stored rows, which are the same for every window, and the places of its rows."""
        if self._values is None:
            self._values = self._load()
        for epoch, blocks, order in wanted:
            places = np.concatenate([np.arange(start, stop) for start, stop in self._order.bounds(blocks)])
            yield epoch, self._values, places[order]

    def _load(self) -> Tensor:
        values = torch.empty(self._rows.shape, dtype=_dtype(self._rows.block(0, 1)), device=self._device)
        for start, stop in self._order.bounds(range(len(self._order.edges) - 1)):
            values[start:stop].copy_(to_device(_writable(self._rows.block(start, stop)), self._device))
        return values


class TwoWindows:
    """The window that batches are made of, and the next one on its way."""

    def __init__(self, rows: Rows, order: WindowOrder, device: str) -> None:
        """Nothing is read yet."""
        self._rows, self._order, self._device = rows, order, device
        self._stream = torch.cuda.Stream(device) if device.startswith("cuda") else None

    def windows(self, wanted: Iterator[Window]) -> Iterator[Held]:
        """Each window's rows, block after block, and their order; `wanted` has no end."""
        with ThreadPoolExecutor(1) as reader:

            def begin() -> tuple[int, Future[tuple[Tensor, Any]], NDArray[np.int64]]:
                epoch, blocks, order = next(wanted)
                return epoch, reader.submit(self._load, blocks), order

            coming = begin()
            while True:
                epoch, loading, order = coming
                window = self._ready(*loading.result())
                coming = begin()
                yield epoch, window, order
                del window

    def _load(self, blocks: tuple[int, ...]) -> tuple[Tensor, Any]:
        """Reads a window and begins to copy it; returns it with the event that ends the copy. A thread runs this."""
        parts = [self._rows.block(start, stop) for start, stop in self._order.bounds(blocks)]
        if self._stream is None:
            return torch.from_numpy(np.concatenate(parts)), None
        shape = (self._order.count(blocks), self._rows.shape[1])
        pinned = torch.empty(shape, dtype=_dtype(parts[0]), pin_memory=True)
        np.concatenate(parts, out=pinned.numpy())
        with torch.cuda.stream(self._stream):
            window = pinned.to(self._device, non_blocking=True)
            return window, self._stream.record_event()

    def _ready(self, window: Tensor, copied: Any) -> Tensor:
        """The window, once the current stream waits for its copy; the host does not wait."""
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            window.record_stream(current)
        return window


def _dtype(values: NDArray[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, values.dtype)).dtype


def _writable(values: NDArray[Any]) -> NDArray[Any]:
    """The values in an array that torch takes without a warning: chunks may be read-only."""
    return values if values.flags.writeable else values.copy()
