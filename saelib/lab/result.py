"""The result of one cell of an experiment, its file, and means with intervals over seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from saelib.files.sealed import read_result, write_result

Coordinate = int | float | str | bool | None
PerSeed = tuple[float | None, ...]


@dataclass(frozen=True)
class CellResult:
    """Measurements of one cell. All columns have an entry for each record, such as a number of tokens or a step."""

    at: dict[str, tuple[Coordinate, ...]]
    """Columns that tell the records of the cell apart, such as `tokens`, `preprocessing` or `step`."""
    measured: dict[str, tuple[PerSeed, ...]]
    """Measured columns: for each record, one value for each seed. None: not defined for this seed."""
    exact: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Columns without a spread over seeds, such as predictions of closed forms."""
    key: str = field(default="", compare=False)
    """One hash over everything that a file was made from; empty for a result that was not read from a file."""


def save_cell(result: CellResult, path: Path, key: str) -> None:
    """Publishes a cell's result as JSON; `key` says what it was made from."""
    content = asdict(result)
    del content["key"]
    write_result(path, key, content)


def load_cell(path: Path) -> CellResult:
    """Reads a cell's result. Raises `UserError` if the file is missing or holds something else; it names the field."""
    return read_result(CellResult, path)


def cell_result(
    records: Sequence[tuple[Mapping[str, Coordinate], Mapping[str, Sequence[float | None]]]],
    exact: Mapping[str, Sequence[float | None]] | None = None,
) -> CellResult:
    """Makes a result of its records.

    Args:
        records: For each record, what tells it apart from the others, and the values of each seed by column. All
            records have the same columns.
        exact: Columns without a spread, with a value for each record.
    """
    names, columns = list(records[0][0]), list(records[0][1])
    return CellResult(
        at={name: tuple(at[name] for at, _ in records) for name in names},
        measured={name: tuple(tuple(map(_finite, values[name])) for _, values in records) for name in columns},
        exact={name: tuple(map(_finite, values)) for name, values in (exact or {}).items()},
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and its 95 % interval by Student's t."""

    mean: float | None
    """None if the column is defined for no seed."""
    low: float | None
    """None with fewer than 2 seeds, as `high`."""
    high: float | None


def interval(values: Sequence[float | None]) -> Interval:
    """Returns the mean of the seeds for which the value is defined, and mean -+ t sd / sqrt(n) with n - 1 degrees."""
    known = [value for value in values if value is not None]
    if not known:
        return Interval(None, None, None)
    mean = statistics.fmean(known)
    if len(known) < 2:
        return Interval(mean, None, None)
    reach = _t975(len(known) - 1) * statistics.stdev(known) / math.sqrt(len(known))
    return Interval(mean, mean - reach, mean + reach)


@cache
def _t975(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def rows_of(result: CellResult, axes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a row of the experiment's table for each record: coordinates, means, intervals, exact columns.

    A measured column `x` becomes `x` (the mean), `x_low` and `x_high` (the interval).
    """
    rows: list[dict[str, Any]] = []
    for record in range(len(next(iter(result.measured.values())))):
        row: dict[str, Any] = dict(axes) | {name: values[record] for name, values in result.at.items()}
        row["seeds"] = len(next(iter(result.measured.values()))[record])
        for name, values in result.measured.items():
            found = interval(values[record])
            row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row | {name: values[record] for name, values in result.exact.items()})
    return rows
