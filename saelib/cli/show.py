"""Prints results as a table for people or as JSON for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

FillMissingChunks = Annotated[
    bool,
    typer.Option("--fill-missing-chunks", help="Read chunks that a .zarr or .h5 file lacks as its fill value."),
]


def show_values(values: Mapping[str, Any], as_json: bool) -> None:
    """Prints one value per line, and each item of a list on its own line."""
    if as_json:
        print(json.dumps(_finite(dict(values)), allow_nan=False, indent=1))
        return
    width = max(map(len, values))
    for name, value in values.items():
        items = (value or ["none"]) if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            print(f"{name if index == 0 else '':<{width}}  {_text(item)}")


def show_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Prints a table with one line per row."""
    if as_json:
        print(json.dumps(list(rows), allow_nan=False, indent=1))
        return
    names = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
    columns = [[name, *("" if row[name] is None else _text(row[name]) for row in rows)] for name in names]
    widths = [max(map(len, column)) for column in columns]
    for cells in zip(*columns, strict=True):
        # Words are aligned to the left, numbers to the right.
        aligned = [
            cell.ljust(width) if isinstance(rows[0][name], str) else cell.rjust(width)
            for name, cell, width in zip(names, cells, widths, strict=True)
        ]
        print("  ".join(aligned).rstrip())


def _finite(value: Any) -> Any:
    """Replaces infinity and NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    if value is None:
        return "not defined"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
