"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINE_EVERY_SECONDS = 10.0


class Advance(Protocol):
    """Say how much has been done since the last call, and optionally what to show beside it."""

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
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
        TextColumn(f"{{task.fields[rate]}} {unit}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate="-", note="")
        started = time.monotonic()

        def advance(amount: int, note: str = "") -> None:
            bar.advance(task, amount)
            done = bar.tasks[0].completed
            bar.update(task, rate=f"{done / max(time.monotonic() - started, 1e-9):,.0f}", note=note)

        yield advance


class _Lines:
    def __init__(self, title: str, total: int, unit: str, log: logging.Logger) -> None:
        self.title, self.total, self.unit, self.log = title, total, unit, log
        self.done = 0
        self.started = self.last = time.monotonic()

    def __call__(self, amount: int, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.last >= LINE_EVERY_SECONDS or self.done >= self.total:
            self.last = now
            rate = self.done / max(now - self.started, 1e-9)
            left = max(0, self.total - self.done) / max(rate, 1e-9)
            message = "%s: %d of %d %s, %.0f %s/s, %.0f s left%s"
            shown = f", {note}" if note else ""
            self.log.info(message, self.title, self.done, self.total, self.unit, rate, self.unit, left, shown)
