"""Tables as CSV or parquet: those that people bring, and those that are published."""

import difflib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from saelib.errors import UserError
from saelib.files import published_file

if TYPE_CHECKING:
    import polars as pl


def read_table(path: Path, columns: list[str], numbers: list[str]) -> "pl.DataFrame":
    """Read a table that must have `columns`, those in `numbers` numeric.

    Raises:
        UserError: where the file, its format or a column is not as wanted.
    """
    import polars as pl

    readers = {".csv": lambda: pl.read_csv(path, infer_schema_length=None), ".parquet": lambda: pl.read_parquet(path)}
    if path.suffix not in readers:
        raise UserError(f"{path}: cannot read '{path.suffix}' tables; allowed: .csv, .parquet")
    try:
        frame = readers[path.suffix]()
    except FileNotFoundError:
        raise UserError(f"{path}: no such table") from None
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a valid {path.suffix} table ({str(error).splitlines()[0]})") from None
    for column in columns:
        if column not in frame.columns:
            close = difflib.get_close_matches(column, frame.columns, n=1)
            guess = f"; did you mean '{close[0]}'?" if close else ""
            raise UserError(f"{path}: no column '{column}'{guess} Columns: {', '.join(frame.columns)}")
    for column in numbers:
        if not frame[column].dtype.is_numeric():
            raise UserError(f"{path}: the column '{column}' holds {frame[column].dtype}; should be numbers")
    return frame


def write_table(table: "pl.DataFrame", path: Path) -> None:
    """Publish a table; the suffix says how. Raises `OSError` where it cannot be written, as on a full disk."""
    # In memory first: from a full disk polars makes an error of its own, which cannot be told from a mistake.
    contents = io.BytesIO()
    if path.suffix == ".csv":
        table.write_csv(contents)
    else:
        table.write_parquet(contents)
    with published_file(path) as draft:
        draft.write_bytes(contents.getvalue())
