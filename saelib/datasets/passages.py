"""Cuts documents into passages."""

import re
from collections.abc import Iterator

BLANK = re.compile(r"\s")


def passages(text: str, characters: int) -> Iterator[tuple[int, int]]:
    """Yields the (start, stop) of passages of about `characters` characters that together make up the whole text.

    A passage ends at the end of a line. If no line ends within another half passage, it ends after a blank; if there
    is no blank either, it ends after exactly the wanted number of characters.
    """
    parts = max(1, round(len(text) / characters))
    start = 0
    for part in range(1, parts + 1):
        stop = _end(text, round(part * len(text) / parts), max(1, characters // 2))
        if text[start:stop].strip():
            yield start, stop
        start = max(start, stop)


def _end(text: str, wanted: int, reach: int) -> int:
    """Returns the end of a passage that should end at `wanted`, and may end up to `reach` characters after it."""
    line_end = text.find("\n", wanted - 1, wanted + reach) + 1
    if line_end or wanted + reach >= len(text):
        return line_end or len(text)
    blank = BLANK.search(text, wanted - 1, wanted + reach)
    return blank.end() if blank else wanted
