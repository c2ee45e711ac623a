"""Data for the page as scripts, because a page that was opened from disk may not read files in any other way."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

CHUNK_BYTES = 2**17
"""Size at which the next chunk of examples begins."""


def to_json(value: Any) -> str:
    """Writes JSON that may stand in any script: pure ASCII and without `<`, so that no text in it ends the script."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def write_script(folder: Path, name: str, value: Any) -> None:
    """Writes a script `NAME.js` that hands a value to the page's function `received`."""
    path = folder / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"received({to_json(name)},{to_json(value)});\n", encoding="ascii")


def chunked(records: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[dict[int, dict[str, Any]]]:
    """Groups numbered records, in order, into chunks of about `CHUNK_BYTES`; a larger record is a chunk of its own."""
    chunk: dict[int, dict[str, Any]] = {}
    size = 0
    for number, record in records:
        more = len(to_json(record))
        if chunk and size + more > CHUNK_BYTES:
            yield chunk
            chunk, size = {}, 0
        chunk[number] = record
        size += more
    if chunk:
        yield chunk


def rounded(values: Iterable[float | None], digits: int = 4) -> list[float | None]:
    """Rounds numbers to significant digits, which keeps files small; NaN becomes null."""
    return [None if value is None or value != value else float(f"{value:.{digits}g}") for value in values]
