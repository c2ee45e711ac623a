"""Table `remedies`: every remedy at its best learning rate, and how it differs from those that it is compared with."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from saelib.config import Config
from saelib.config.lab import Cell, RemedyExperiment
from saelib.config.synthetic import StoredDataConfig
from saelib.errors import UserError
from saelib.evaluation.differences import score_difference
from saelib.lab.result import PerSeed, interval, load_cell

SHOWN = (
    *("born_dead", "dead_relu", "dead_topk_only", "dead_total", "fvu", "token_fvu", "l0"),
    *("f1", "mcc", "bias_capture"),
)
"""Measured columns of the table; each has an interval over seeds."""
BETTER = {"dead_total": -1, "fvu": -1, "token_fvu": -1, "f1": 1, "mcc": 1}
"""Columns that are compared, and the sign of an improvement. Errors are compared as ratios, the others by
differences."""
JUDGED = {"dead_total": 0.01, "fvu": math.log(1.02), "token_fvu": math.log(1.02), "f1": 0.01}
"""Columns that decide a verdict, and the smallest difference that counts: a point of death or F1, or 2 % of error."""


@dataclass(frozen=True)
class _Trained:
    """A remedy at the learning rate that has the least error on the tokens for choosing."""

    cell: Cell
    measured: Mapping[str, PerSeed]


def remedies_table(config: Config) -> pl.DataFrame:
    """Makes the table over all experiments of kind `remedies`; cells without a result are left out.

    For a variant NAME of `compare_with` it has `dead_total_minus_NAME`, `f1_minus_NAME` and `mcc_minus_NAME`, and the
    ratios `fvu_over_NAME` and `token_fvu_over_NAME`, each with a 95 % interval over seeds: SAEs of one seed have the
    same data, batches and random directions, so differences are paired. `verdict` compares with the last NAME.
    """
    rows = [
        row
        for name, experiment in config.experiments.items()
        if isinstance(experiment, RemedyExperiment)
        for group in _groups(config, name, experiment)
        for row in _rows(name, experiment, group)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _groups(config: Config, name: str, experiment: RemedyExperiment) -> Iterator[dict[str, _Trained]]:
    """Yields, for each point of the grid, its variants at their best learning rates."""
    groups: dict[tuple[Any, ...], dict[str, _Trained]] = {}
    for cell in experiment.cells():
        measured = _read(config, name, cell)
        if measured is None:
            continue
        point = (cell.data, cell.sae, cell.settings["batch_size"], cell.settings["architecture"])
        group, variant = groups.setdefault(point, {}), cell.settings["variant"]
        found = _Trained(cell, measured)
        if variant not in group or _choosing_error(found) < _choosing_error(group[variant]):
            group[variant] = found
    yield from groups.values()


def _read(config: Config, name: str, cell: Cell) -> dict[str, PerSeed] | None:
    """Reads a cell's values; None if there are none, which the report says elsewhere."""
    try:
        result = load_cell(config.lab_path(name, cell))
    except UserError:
        return None
    return {column: values[0] for column, values in result.measured.items()}


def _choosing_error(found: _Trained) -> float:
    values = found.measured["choosing_token_fvu"]
    return math.inf if None in values else float(np.mean([value for value in values if value is not None]))


def _rows(name: str, experiment: RemedyExperiment, group: Mapping[str, _Trained]) -> Iterator[dict[str, Any]]:
    for variant, found in group.items():
        settings = found.cell.settings
        row: dict[str, Any] = {
            "experiment": name,
            "data": data_name(found.cell),
            "architecture": settings["architecture"],
            "variant": variant,
            "learning_rate": settings["learning_rate"],
            "seeds": experiment.seeds,
        }
        for column in SHOWN:
            of_seeds = interval(found.measured[column])
            row |= {column: of_seeds.mean, f"{column}_low": of_seeds.low, f"{column}_high": of_seeds.high}
        for other in experiment.compare_with:
            reference = group[other].measured if other in group and other != variant else {}
            row |= _differences(found.measured, reference, other)
        yield row | {"verdict": _verdict(row, experiment.compare_with[-1])}


def data_name(cell: Cell) -> str:
    """Names the data of a cell: 'small, γ = 5', or the model and layer of a store."""
    data = cell.data
    if isinstance(data, StoredDataConfig):
        return "/".join(data.store.removesuffix(".zarr").rstrip("/").split("/")[-2:])
    edition = getattr(data, "edition", "synthetic")
    return edition if data.gamma is None else f"{edition}, γ = {data.gamma:g}"


def compared(column: str, other: str) -> str:
    """Names the column that compares `column` with the variant `other`."""
    return f"{column}_{'over' if is_error(column) else 'minus'}_{other}"


def ratio_columns(names: Sequence[str]) -> list[str]:
    """Returns the columns with ratios of errors, without their intervals; those with the last variant come last."""
    return [name for name in names if "fvu_over_" in name and not name.endswith(("_low", "_high"))]


def is_error(column: str) -> bool:
    """Checks whether a column holds errors, which are compared by their ratio."""
    return column.endswith("fvu")


def _differences(one: Mapping[str, PerSeed], other: Mapping[str, PerSeed], name: str) -> dict[str, float | None]:
    """Compares two remedies seed by seed; without values of the other one, all differences are None."""
    row: dict[str, float | None] = {}
    for column in BETTER:
        both = zip(one[column], other.get(column, ()), strict=False)
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        ends: Sequence[float | None] = (None, None, None)
        if len(pairs) > 1:
            values = np.log(pairs) if is_error(column) else np.array(pairs)
            found = score_difference(values[:, 0], values[:, 1])
            ends = [math.exp(end) if is_error(column) else end for end in (found.mean, found.low, found.high)]
        label = compared(column, name)
        row |= dict(zip((label, f"{label}_low", f"{label}_high"), ends, strict=True))
    return row


def _verdict(row: Mapping[str, Any], other: str) -> str | None:
    """Says whether a remedy is better than `other`: reliably so in some column, and reliably worse in none."""
    if row.get(compared("dead_total", other)) is None:
        return None
    changes = [change for column in JUDGED if (change := _reliable_change(row, column, other))]
    better, worse = (any(change * sign > 0 for change in changes) for sign in (1, -1))
    return "mixed" if better and worse else "better" if better else "worse" if worse else "no difference"


def _reliable_change(row: Mapping[str, Any], column: str, other: str) -> float:
    """Returns the change for the better; 0 if it is small, or if its interval holds 0."""
    label = compared(column, other)
    ends = [row.get(name) for name in (label, f"{label}_low", f"{label}_high")]
    if None in ends:
        return 0.0
    mean, low, high = (math.log(end) if is_error(column) else end for end in ends if end is not None)
    reliable = abs(mean) >= JUDGED[column] and (low > 0 or high < 0)
    return BETTER[column] * mean if reliable else 0.0
