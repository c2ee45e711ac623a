"""Shows on stderr the progress of a command that reads rows many times."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import Rows
from saelib.progress import Advance, progress

log = logging.getLogger(__name__)


class WatchedRows:
    """Rows whose reading advances a progress bar."""

    def __init__(self, rows: Rows, advance: Advance, total: int) -> None:
        """Wraps `rows`; the bar is full after `total` rows, and stays full if more are read."""
        self.name, self.shape, self.block_rows, self.offset = rows.name, rows.shape, rows.block_rows, rows.offset
        self.left = total
        self._rows, self._advance = rows, advance
        self._lock = threading.Lock()

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Reads rows from the wrapped ones, and advances the bar."""
        values = self._rows.block(start, stop)
        with self._lock:
            step = min(len(values), self.left - 1)
            self.left -= step
            self._advance(step)
        return values


@contextmanager
def watched(title: str, rows: Rows, passes: int) -> Iterator[WatchedRows]:
    """Shows the reading of rows on stderr: rows per second, and the time left if they are read about `passes` times."""
    log.setLevel(logging.INFO)
    total = passes * rows.shape[0]
    with progress(title, total, "rows", log) as advance:
        found = WatchedRows(rows, advance, total)
        yield found
        if sys.stderr.isatty():  # a bar ends full; a log needs no last line
            advance(found.left)


def log_to_stderr(*names: str) -> None:
    """Prints warnings and errors as plain sentences on stderr, and the named loggers' progress too."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in names:
        logging.getLogger(name).setLevel(logging.INFO)
