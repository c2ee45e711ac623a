"""Cut documents into passages."""

import re
from collections.abc import Iterator

BLANK = re.compile(r"\s")


def passages(text: str, characters: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of passages that together are the whole text, of about so many characters each.

    A passage ends where a line does; where none ends within half a passage more, behind a blank; and where there is
    none either, after the characters themselves.
    """
    parts = max(1, round(len(text) / characters))
    start = 0
    for part in range(1, parts + 1):
        stop = _end(text, round(part * len(text) / parts), max(1, characters // 2))
        if text[start:stop].strip():
            yield start, stop
        start = max(start, stop)


def _end(text: str, wanted: int, reach: int) -> int:
    """Where a passage ends that should end at `wanted`, or at most `reach` characters behind it."""
    line_end = text.find("\n", wanted - 1, wanted + reach) + 1
    if line_end or wanted + reach >= len(text):
        return line_end or len(text)
    blank = BLANK.search(text, wanted - 1, wanted + reach)
    return blank.end() if blank else wanted
