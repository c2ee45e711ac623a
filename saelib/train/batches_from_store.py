"""Training batches from a store that may not fit in memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from saelib.activations.rows import Rows, read_float32
from saelib.errors import UserError
from saelib.train.order import WINDOW_BYTES, WindowOrder


class ShuffledBatches:
    """Endless shuffled batches: blocks in a random order, a window of them in memory, its rows in a random order.

    The order depends on the seed, the epoch and the shape of `rows` only. Within an epoch no row comes twice; the
    rows that do not fill a last batch (fewer than `batch_size`, others in each epoch) are left out.
    """

    def __init__(self, rows: Rows, batch_size: int, *, seed: int, window_bytes: int = WINDOW_BYTES) -> None:
        """Memory stays near `window_bytes`, or one block of `rows` if that is more.

        Raises:
            UserError: if `rows` has fewer rows than one batch.
        """
        check_fills_a_batch(rows, batch_size)
        tokens, d_in = rows.shape
        self._rows, self._batch_size = rows, batch_size
        self._order = WindowOrder(tokens, rows.block_rows, d_in, seed, window_bytes)
        self._loaded: tuple[int, ...] = ()
        self._window = torch.empty(0)
        self._batch = torch.empty(batch_size, d_in)

    def batches(self, start: int = 0) -> Iterator[Tensor]:
        """Batches number `start`, `start` + 1, … without end: float32 [batch_size, d_in].

        Every batch lies in the same memory, which the next one overwrites.
        """
        epoch, first = divmod(start, self._rows.shape[0] // self._batch_size)
        while True:
            yield from self._epoch(epoch, first)
            epoch, first = epoch + 1, 0

    def _epoch(self, epoch: int, first: int) -> Iterator[Tensor]:
        """The batches of one epoch from the `first` on; one may begin in one window and end in the next."""
        filled = 0
        for blocks, order in self._order.windows(epoch, skip=first * self._batch_size):
            window, left = self._load(blocks), torch.from_numpy(order)
            while len(left):
                taken = left[: self._batch_size - filled]
                torch.index_select(window, 0, taken, out=self._batch[filled : filled + len(taken)])
                left, filled = left[len(taken) :], filled + len(taken)
                if filled == self._batch_size:
                    yield self._batch
                    filled = 0

    def _load(self, blocks: tuple[int, ...]) -> Tensor:
        """The rows of some blocks, one block after the other; kept until others are asked for."""
        if blocks != self._loaded:
            self._loaded, self._window = (), torch.empty(0)  # let go of the old window before making the new one
            window = torch.empty(self._order.count(blocks), self._rows.shape[1])
            filled = 0
            for start, stop in self._order.bounds(blocks):
                window[filled : filled + stop - start] = torch.from_numpy(read_float32(self._rows, start, stop))
                filled += stop - start
            self._loaded, self._window = blocks, window
        return self._window


def check_fills_a_batch(rows: Rows, batch_size: int) -> None:
    """Raises `UserError` if there are fewer rows than a batch has."""
    tokens = rows.shape[0]
    if tokens < batch_size:
        raise UserError(
            f"{rows.name}: {tokens} training tokens do not fill one batch of {batch_size}; "
            f"extract more (extraction.tokens) or set a smaller train.batch_size"
        )
