"""Cut documents into passages."""

from collections.abc import Iterator


def passages(text: str, characters: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of passages that together are the whole text, each ending where a line does."""
    parts = max(1, round(len(text) / characters))
    start = 0
    for part in range(1, parts + 1):
        line_end = text.find("\n", round(part * len(text) / parts) - 1) + 1
        stop = line_end or len(text)
        if text[start:stop].strip():
            yield start, stop
        start = stop
