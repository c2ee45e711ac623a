"""Reads documents from local files: plain text, JSON, Parquet, Arrow."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from saelib.datasets.decoding import PACKED, read_text, text_lines
from saelib.errors import UserError

SUFFIXES = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""Suffix -> format. In the names of text and JSON files, one of `PACKED` may follow the suffix."""
ALLOWED = f"{', '.join(SUFFIXES)} (text and JSON also with {', '.join(PACKED)})"
NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that the library `datasets` writes next to its data."""
ROWS = 1000
"""Number of rows of a table that are in memory at a time."""

Documents = Iterable[tuple[str, str]]
"""(name for messages, text) of each document."""
Rows = Iterable[dict[str, Any]]
"""Column -> value, for each row."""


def format_of(file: Path) -> str:
    """Returns the format of a file by its name; '' if it is not one that is read."""
    name = Path(file.name.lower())
    found = SUFFIXES.get(name.suffix, "")
    if name.suffix in PACKED:
        inner = SUFFIXES.get(Path(name.stem).suffix, "")
        found = inner if inner in ("text", "json") else ""
    return "" if file.name in NOT_DATA else found


def file_documents(files: list[Path], column: str) -> Documents:
    """Yields the documents of local files, one file after another, a few rows at a time.

    An empty text or JSON file is one empty document, so that it is counted.

    Raises:
        UserError: if a file is damaged, is not text, or has no such column.
    """
    for file in files:
        name, kind = f"{file.parent.name}/{file.name}", format_of(file)
        if not file.stat().st_size and kind in ("parquet", "arrow"):
            raise UserError(f"{file}: is empty")
        if not file.stat().st_size or kind == "text":
            yield name, read_text(file)
            continue
        rows = {"json": _json_rows, "parquet": _parquet_rows, "arrow": _arrow_rows}[kind]
        try:
            yield from row_documents(rows(file, column), column, name, str(file))
        # The readers of the formats raise these; the errors of pyarrow and of the codecs are ValueErrors or OSErrors.
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(f"{file}: not readable as {kind} ({first_line(error)})") from None


def row_documents(rows: Rows, column: str, name: str, place: str) -> Documents:
    """Yields the text of each row. Messages about the whole table call it `place`."""
    for number, row in enumerate(rows):
        if number == 0 and column not in row:
            raise UserError(f"{place}: has no column '{column}'; its columns are {', '.join(map(str, row))}")
        text = row.get(column)  # in JSON, a row may leave out a missing value
        if not isinstance(text, str | None):
            raise UserError(f"{place}: column '{column}' holds {type(text).__name__}, should hold text")
        yield f"{name}#{number}", text or ""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _json_rows(file: Path, column: str) -> Rows:
    """Reads one object per line, or one list of objects, which is held in memory as a whole."""
    lines = ((number, line) for number, line in enumerate(text_lines(file), 1) if line.strip())
    for number, line in lines:
        if line.lstrip().startswith("["):
            yield from _objects(json.loads("\n".join([line, *(rest for _, rest in lines)])), "it holds")
            return
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"line {number}, character {error.colno}: {error.msg}; should be one object per line, or a list of them"
            ) from None
        yield from _objects([row], f"line {number} holds")


def _objects(rows: list[Any], place: str) -> Rows:
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f'{place} {type(row).__name__}, should be an object: {{"text": "..."}}')
        yield row


def _parquet_rows(file: Path, column: str) -> Rows:
    # The library `datasets` is not used here, because it keeps all rows of a local file that it has passed in memory.
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, memory_map=True) as table:
        names = table.schema_arrow.names
        for batch in table.iter_batches(batch_size=ROWS, columns=[column] if column in names else names):
            yield from batch.to_pylist()


def _arrow_rows(file: Path, column: str) -> Rows:
    """Reads the rows of an Arrow stream, which `datasets` writes, or of an Arrow file (Feather)."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        for batch in _arrow_batches(source):
            names = batch.schema.names
            chosen = batch.select([column]) if column in names else batch
            for start in range(0, len(chosen), ROWS):
                yield from chosen.slice(start, ROWS).to_pylist()


def _arrow_batches(source: Any) -> Iterator[Any]:
    import pyarrow as pa

    if source.read(6) == b"ARROW1":
        table = pa.ipc.open_file(source)
        yield from (table.get_batch(number) for number in range(table.num_record_batches))
    else:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
