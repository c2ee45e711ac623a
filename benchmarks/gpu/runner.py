"""Runs the sections in order of worth, within the time there is, and saves what is known after every row."""

import time
from collections.abc import Callable, Iterator

from benchmarks.gpu.card import Card
from benchmarks.gpu.report import Report, Row, Section, State

Rows = Callable[[Card], Iterator[Row]]


def run_sections(
    report: Report,
    rows_of: Callable[[str], Rows],
    card: Card,
    say: Callable[[str], None],
    save: Callable[[Report], None],
) -> None:
    """Fills the sections of `report`; those that the time does not suffice for stay `waiting` or end `cut off`.

    Args:
        report: Its sections are run in their order.
        rows_of: The function that measures the section of a name; it is cut off between two rows.
        card: What to measure, and until when.
        say: Takes a line for the person who watches.
        save: Keeps the report as it is; called after every row, so that a run that is killed loses one at most.
    """
    for section in report.sections:
        if card.seconds_left <= 0:
            say(f"{section.name}: no time left")
            continue
        say(f"\n{section.name}: {section.title}")
        start, section.state = time.monotonic(), "running"
        try:
            section.state = _take(rows_of(section.name)(card), section, card, say, lambda: save(report))
        except Exception as error:  # a section that fails must not cost the others
            section.state, section.reason = "failed", f"{type(error).__name__}: {str(error).strip()}"
            say(f"  failed: {section.reason}")
        section.seconds = time.monotonic() - start
        card.free()
        save(report)


def _take(
    rows: Iterator[Row], section: Section, card: Card, say: Callable[[str], None], save: Callable[[], None]
) -> State:
    for row in rows:
        section.rows.append(row)
        for line in (row.line, *(f"BROKEN: {law}" for law in row.broken)):
            say(f"  {line}")
        save()
        if card.seconds_left <= 0:
            say("  no time left")
            return "cut off"
    return "done"
