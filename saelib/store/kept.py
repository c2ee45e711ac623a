"""Rows of stores that stay on a device while they are written, exactly as readers of the stores get them.

A store's writer hands over each window as it writes it: rounded, shuffled, and without the offset. Whatever is computed
from these rows therefore has the bits that it would have if the store were read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.config.sites import Layer
from saelib.devices.memory import spare_bytes
from saelib.store.layout import Split

_SHARE_OF_MEMORY = 0.5
"""Share of the memory that the model leaves free; larger batches and the statistics themselves need the rest."""


class Room:
    """Bytes of a device that rows may fill."""

    def __init__(self, size: float) -> None:
        """Starts with nothing in it."""
        self.size, self.taken = size, 0.0

    def take(self, size: float) -> bool:
        """Takes some bytes if they are left, and tells whether they were."""
        fits = self.taken + size <= self.size
        self.taken += size if fits else 0
        return fits


class KeptRows:
    """The rows of one split on a device, as `saelib.activations.rows.Rows`."""

    def __init__(
        self, name: str, tokens: int, offset: NDArray[np.float32], block_rows: int, device: str, room: Room
    ) -> None:
        """Allocates room for float16 rows, which `room` has already counted.

        Args:
            name: Name of the rows in messages.
            tokens: Number of rows.
            offset: [d_in], what was subtracted from them.
            block_rows: Number of rows in a chunk of the store.
            device: torch's name of the device.
            room: Where the memory is taken from if the rows become float32.
        """
        self.name, self.shape, self.block_rows = name, (tokens, len(offset)), block_rows
        self.offset: NDArray[np.float32] | None = offset
        self._room = room
        self._values: Tensor | None = torch.empty(self.shape, dtype=torch.float16, device=device)

    @property
    def fits(self) -> bool:
        """False if the rows became too large and were dropped."""
        return self._values is not None

    def write(self, start: int, window: NDArray[np.floating]) -> None:
        """Takes over a window [rows, d_in] of the store, which begins at row `start`."""
        if self._values is not None:
            self._values[start : start + len(window)].copy_(torch.from_numpy(window))

    def widen(self) -> None:
        """Turns the rows into float32 and adds the offset, as the writer does; drops them if they do not fit."""
        if self._values is None or self.offset is None:
            return
        if not self._room.take(2 * self._values.numel()):
            self._values = None
            return
        self._values = self._values.float().add_(torch.from_numpy(self.offset).to(self._values.device))
        self.offset = None

    def on_device(self, start: int, stop: int) -> Tensor:
        """Returns rows as they lie on the device, without the offset: float16 or float32 [stop - start, d_in]."""
        assert self._values is not None, f"{self.name}: dropped"
        return self._values[start:stop]

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Copies rows to the host, without the offset: float16 or float32 [stop - start, d_in]."""
        return self.on_device(start, stop).cpu().numpy()


@dataclass(frozen=True)
class KeptStore:
    """The rows of one layer on a device. It can be read where a `saelib.store.Store` can."""

    train: KeptRows
    heldout: KeptRows

    @property
    def fits(self) -> bool:
        """False if the rows of a split became too large and were dropped."""
        return self.train.fits and self.heldout.fits


class KeptStores:
    """The layers of one pass whose rows stay on a device: from the first one on, as many as fit."""

    def __init__(self, device: str, room: float | None = None) -> None:
        """Starts without any rows.

        Args:
            device: torch's name of the device.
            room: Bytes that rows may fill. None: half of what the model leaves free after its first batch.
        """
        self.device = device
        self._room = None if room is None else Room(room)
        self._stores: dict[Layer, KeptStore] = {}

    @property
    def room(self) -> Room:
        """The memory for all rows, which is measured when the first layer asks for it."""
        if self._room is None:
            self._room = Room(_SHARE_OF_MEMORY * spare_bytes())
        return self._room

    def start(
        self, layer: Layer, name: str, tokens: Mapping[Split, int], offset: NDArray[np.float32], block_rows: int
    ) -> Mapping[Split, KeptRows]:
        """Makes room for a layer; returns its splits for the store's writer, or none if they do not fit.

        Args:
            layer: The layer.
            name: Its name in messages, such as 'gpt2 layer 5'.
            tokens: Split -> number of rows.
            offset: [d_in], subtracted from its rows.
            block_rows: Number of rows in a chunk of its store.
        """
        if not self.room.take(2 * sum(tokens.values()) * len(offset)):
            return {}
        splits: dict[Split, KeptRows] = {
            split: KeptRows(f"{name} ({split})", count, offset, block_rows, self.device, self.room)
            for split, count in tokens.items()
        }
        self._stores[layer] = KeptStore(**splits)
        return splits

    def take(self, layer: Layer) -> KeptStore | None:
        """Hands over the rows of a layer and forgets them; None if they did not fit."""
        store = self._stores.pop(layer, None)
        return store if store and store.fits else None

    @property
    def layers(self) -> list[Layer]:
        """Layers whose rows all lie on the device; none that was taken."""
        return [layer for layer, store in self._stores.items() if store.fits]

    def clear(self) -> None:
        """Forgets all rows."""
        self._stores.clear()
