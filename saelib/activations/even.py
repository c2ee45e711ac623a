"""Rows that are spread evenly over something larger."""

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import Rows

RUN_ROWS = 1024
"""The least number of rows of a run; runs start at the beginning of an example if that is known."""


class EvenRows:
    """A sample of rows, in runs that are spread evenly over all rows. Nothing is read until a block is asked for.

    Attributes:
        numbers: int64 [tokens], each row's number in the source.
    """

    def __init__(self, rows: Rows, tokens: int, context: int = 1) -> None:
        """Chooses the rows.

        Args:
            rows: The source.
            tokens: Most rows in the sample.
            context: Number of rows of one example. Runs hold whole examples, which favors no position within them.
        """
        total, d_in = rows.shape
        run = context * max(1, RUN_ROWS // context)
        runs = min(total, tokens) // run
        if total <= tokens or runs == 0:
            self.numbers = np.arange(min(total, tokens))
        else:
            starts = np.linspace(0, total // context - run // context, runs).astype(np.int64) * context
            self.numbers = (starts[:, None] + np.arange(run)).ravel()
        self.name, self.offset = rows.name, rows.offset
        self.shape = (len(self.numbers), d_in)
        self.block_rows = run * max(1, rows.block_rows // run) if runs else rows.block_rows
        self._rows = rows

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Reads rows `start` to `stop` of the sample: [stop - start, d_in]."""
        numbers = self.numbers[start:stop]
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        pieces = [self._rows.block(int(piece[0]), int(piece[-1]) + 1) for piece in np.split(numbers, breaks)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
