"""Shows the progress of long work: as a bar on a terminal, as a line every ten seconds in a log."""

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
    """Excludes seconds that were just spent, for example on compiling, from the rates of all work in progress."""
    global _left_out
    _left_out += seconds


class _Clock:
    """Counts the seconds since it was made, without those that were excluded."""

    def __init__(self) -> None:
        self._started = time.monotonic() - _left_out

    def seconds(self) -> float:
        return max(time.monotonic() - _left_out - self._started, 1e-9)


class Advance(Protocol):
    """A function that reports progress since its last call."""

    def __call__(self, amount: int, note: str = "") -> None:
        """Reports that `amount` units were done, and optionally shows a note next to the progress."""
        ...


@contextmanager
def progress(title: str, total: int, unit: str, log: logging.Logger) -> Iterator[Advance]:
    """Shows how many of `total` units are done, their rate and the time left, as the yielded function is called."""
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
    """Logs one line before kernels are compiled, and excludes the time of compiling from all rates.

    Modules with kernels call it once. Functions that numba finds compiled in its cache on disk are not announced.
    """
    from numba.core.event import TimingListener, register

    class Announcement(TimingListener):
        """Counts time once, although kernels that others call are compiled within them."""

        def on_start(self, event: Any) -> None:
            if not self.done and self._depth == 0:
                log.info("compiling the kernels for this CPU (once per machine)")
            super().on_start(event)

        def on_end(self, event: Any) -> None:
            before = self.duration if self.done else 0.0
            super().on_end(event)
            leave_out((self.duration if self.done else 0.0) - before)

    register("numba:compile", Announcement())
