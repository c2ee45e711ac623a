"""Progress of a command that reads rows many times over, on stderr."""

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
    """The same rows; whoever reads them moves a bar forward."""

    def __init__(self, rows: Rows, advance: Advance, total: int) -> None:
        """`total`: rows at which the bar is full; it stays there if more are read."""
        self.name, self.shape, self.block_rows, self.offset = rows.name, rows.shape, rows.block_rows, rows.offset
        self.left = total
        self._rows, self._advance = rows, advance
        self._lock = threading.Lock()

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows as the watched ones give them."""
        values = self._rows.block(start, stop)
        with self._lock:
            step = min(len(values), self.left - 1)
            self.left -= step
            self._advance(step)
        return values


@contextmanager
def watched(title: str, rows: Rows, passes: int) -> Iterator[WatchedRows]:
    """Rows whose reading shows on stderr: rows a second, and the time left if there are about `passes` passes."""
    log.setLevel(logging.INFO)
    total = passes * rows.shape[0]
    with progress(title, total, "rows", log) as advance:
        found = WatchedRows(rows, advance, total)
        yield found
        if sys.stderr.isatty():  # a bar is left full; a log needs no last line
            advance(found.left)


def log_to_stderr(*names: str) -> None:
    """Plain sentences on stderr: what goes wrong, and of the named loggers also what goes well."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in names:
        logging.getLogger(name).setLevel(logging.INFO)
