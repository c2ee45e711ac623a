"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

log = logging.getLogger(__name__)

LINE_EVERY_SECONDS = 10.0
_left_out = 0.0


def leave_out(seconds: float) -> None:
    """Takes seconds that were just spent, such as those of compiling, out of the rates of all that is in progress."""
    global _left_out
    _left_out += seconds


class _Clock:
    """Seconds since it was made, without those that were left out."""

    def __init__(self) -> None:
        self._started = time.monotonic() - _left_out

    def seconds(self) -> float:
        return max(time.monotonic() - _left_out - self._started, 1e-9)


class Advance(Protocol):
    """Reports how much was done since the last call, and optionally a note to show next to it."""

    def __call__(self, amount: int, note: str = "") -> None:
        """`amount`: in the unit of the whole."""
        ...


@contextmanager
def progress(title: str, total: int, unit: str, log: logging.Logger) -> Iterator[Advance]:
    """Show `total` units of work as they are done, with their rate and the time left."""
    if sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
    else:
        yield _Lines(title, total, unit, log)


@contextmanager
def _bar(title: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate="", note="")
        clock = _Clock()

        def advance(amount: int, note: str = "") -> None:
            bar.advance(task, amount)
            bar.update(task, rate=_rate(bar.tasks[0].completed, total, unit, clock), note=note)

        yield advance


class _Lines:
    def __init__(self, title: str, total: int, unit: str, log: logging.Logger) -> None:
        self.title, self.total, self.unit, self.log = title, total, unit, log
        self.done = 0
        self.clock, self.last = _Clock(), time.monotonic()

    def __call__(self, amount: int, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.last >= LINE_EVERY_SECONDS or self.done >= self.total:
            self.last = now
            shown = f", {note}" if note else ""
            rate = _rate(self.done, self.total, self.unit, self.clock)
            self.log.info("%s: %d of %d %s, %s%s", self.title, self.done, self.total, self.unit, rate, shown)


def _rate(done: float, total: float, unit: str, clock: _Clock) -> str:
    rate = done / clock.seconds()
    return f"{rate:,.{0 if rate >= 1 else 2}f} {unit}/s, {max(0, total - done) / max(rate, 1e-9):.0f} s left"


@cache
def announce_compiling() -> None:
    """Announces compilation in one log line from now on, and leaves the time that it takes out of all rates.

    What numba finds compiled, in its cache on disk, says and costs nothing. Modules with kernels call this.
    """
    from numba.core.event import TimingListener, register

    class Announcement(TimingListener):
        """Kernels that others call are compiled within them: their time is counted once."""

        def on_start(self, event: Any) -> None:
            if not self.done and self._depth == 0:
                log.info("compiling the kernels for this CPU (once per machine)")
            super().on_start(event)

        def on_end(self, event: Any) -> None:
            before = self.duration if self.done else 0.0
            super().on_end(event)
            leave_out((self.duration if self.done else 0.0) - before)

    register("numba:compile", Announcement())
