"""Evenly spread rows of something larger, and batches that arrive once: both become `Rows` that can be read again."""

import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.activations.arrays import in_memory
from saelib.activations.rows import ArrayRows, Rows
from saelib.errors import UserError

RUN_ROWS = 1024
"""Rows that are read together, at the least; runs start at the beginning of an example where that is known."""


class EvenRows:
    """At most `tokens` rows, in runs that are spread evenly over all rows. Nothing is read until a block is asked for.

    Attributes:
        numbers: int64 [tokens], each row's number in the source.
    """

    def __init__(self, rows: Rows, tokens: int, context: int = 1) -> None:
        """Chooses the rows.

        Args:
            rows: The source.
            tokens: The most rows to take.
            context: Rows of one example. Runs hold whole examples, so that no position within them is favored.
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


def spool(batches: Iterable[Any], tokens: int, name: str) -> Rows:
    """Keeps the first `tokens` rows of batches that come once, in a temporary file that goes with the process.

    Args:
        batches: Arrays or tensors [n, d_in] or [n, context, d_in], all of one width.
        tokens: Batches are asked for until there are so many rows.
        name: What messages call them.

    Raises:
        UserError: Where there are none, or one has another width or no floating point.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the memory map keeps it open)
    found, width = 0, 0
    for number, batch in enumerate(batches):
        values = in_memory(batch, f"{name}, batch {number}").values[: tokens - found].astype(np.float32)
        if width not in (0, values.shape[1]):
            raise UserError(f"{name}, batch {number}: has {values.shape[1]} dimensions; those before have {width}")
        values.tofile(file)
        found, width = found + len(values), values.shape[1]
        if found >= tokens:
            break
    if not found:
        raise UserError(f"{name}: there are no batches; should be arrays [n, d_in]")
    file.flush()
    return ArrayRows(np.memmap(file, np.float32, "r", shape=(found, width)), name)
