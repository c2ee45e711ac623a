"""Kernels compile when they are first called on a machine: say so, and keep it out of all rates of progress."""

import logging
from functools import cache
from typing import Any

from saelib.progress import leave_out

log = logging.getLogger(__name__)


@cache
def announce_compiling() -> None:
    """From now on, one line says when this process begins to compile, and rates do not count the time that it takes.

    What numba finds compiled, in its cache on disk, says and costs nothing. Modules with kernels call this.
    """
    from numba.core.event import TimingListener, register

    class Announcement(TimingListener):
        """Kernels that others call are compiled within them: their time is counted once."""

        def on_start(self, event: Any) -> None:
            if not self.done and self._depth == 0:
                log.info("compiling the kernels for this processor (once per machine)")
            super().on_start(event)

        def on_end(self, event: Any) -> None:
            before = self.duration if self.done else 0.0
            super().on_end(event)
            leave_out((self.duration if self.done else 0.0) - before)

    register("numba:compile", Announcement())
