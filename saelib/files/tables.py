"""Reads tables that people bring, and writes those that are published, as CSV or parquet."""

import csv
import difflib
import io
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from saelib.errors import UserError
from saelib.files.publish import published_file

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "-")
"""Texts, in lower case, that people write into a cell without a number."""
FORMATS = (".csv", ".tsv", ".parquet")


def read_table(path: Path, columns: list[str], numbers: list[str]) -> "pl.DataFrame":
    """Reads a table that must have `columns`. Columns in `numbers` become Float64, and their missing cells null.

    The suffix says what the file is: .csv (separated by commas, semicolons or tabs), .tsv or .parquet. Numbers in a
    file with semicolons may have decimal commas. All other columns of a text file are text.

    Raises:
        UserError: If the file is missing or not such a table, or if a column is missing or does not hold numbers.
    """
    import polars as pl

    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: cannot read '{path.suffix}' tables; allowed: {', '.join(FORMATS)}")
    try:
        frame, separator = (pl.read_parquet(path), "") if suffix == ".parquet" else _read_text(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such table") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a valid {suffix} table (its text is not UTF-8)") from None
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a valid {suffix} table ({str(error).splitlines()[0]})") from None
    for column in columns:
        if column not in frame.columns:
            close = difflib.get_close_matches(column, frame.columns, n=1)
            guess = f"; did you mean '{close[0]}'?" if close else "."
            raise UserError(f"{path}: no column '{column}'{guess} Columns: {', '.join(frame.columns)}")
    return frame.with_columns([_numbers(frame[name], path, separator == ";") for name in dict.fromkeys(numbers)])


def _read_text(path: Path) -> tuple["pl.DataFrame", str]:
    """Reads a table and its separator. All cells stay text, because an `NA` may follow thousands of numbers."""
    import polars as pl

    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise UserError(f"{path}: the file is empty; should be a table whose first line names the columns")
    header = text.split("\n", 1)[0]
    unquoted = re.sub('"[^"]*"', "", header)
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=unquoted.count)
    names = Counter(next(csv.reader([header], delimiter=separator), []))
    for name, count in names.items():
        if count > 1:
            raise UserError(f"{path}: {count} columns are called '{name}'; each needs a name of its own")
    return pl.read_csv(io.StringIO(text), separator=separator, infer_schema=False), separator


def _numbers(column: "pl.Series", path: Path, decimal_comma: bool) -> "pl.Series":
    """Converts a column to Float64. NaN, which polars distinguishes from null, becomes null."""
    import polars as pl

    if column.dtype.is_numeric():
        return column.cast(pl.Float64).fill_nan(None)
    if column.dtype not in (pl.String, pl.Null):
        raise UserError(f"{path}: the column '{column.name}' holds {column.dtype}; should be numbers")
    cells = column.cast(pl.String).str.strip_chars()
    cells = cells.set(cells.str.to_lowercase().is_in(MISSING), None)
    found = cells.str.replace(",", ".", literal=True) if decimal_comma else cells
    found = found.cast(pl.Float64, strict=False)
    wrong = (cells.is_not_null() & found.is_null()).arg_true()
    if len(wrong):
        raise UserError(
            f"{path}: the column '{column.name}' should hold numbers or empty cells; its row "
            f"{wrong[0] + 1} below the header holds '{cells[wrong[0]]}'"
        )
    return found.fill_nan(None)


def write_table(table: "pl.DataFrame", path: Path) -> None:
    """Publishes a table in the format of the suffix. Raises `OSError` if it cannot be written, as on a full disk."""
    # Polars writes to memory first: its own error for a full disk cannot be told from a mistake.
    contents = io.BytesIO()
    if path.suffix == ".csv":
        table.write_csv(contents)
    else:
        table.write_parquet(contents)
    with published_file(path) as draft:
        draft.write_bytes(contents.getvalue())
