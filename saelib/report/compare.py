"""The suite's layers next to those of another table: the paper's released one, or that of another suite."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from saelib.errors import UserError
from saelib.files.tables import read_table

if TYPE_CHECKING:
    from saelib.config.compare import CompareConfig

SHARED = (
    "gamma",
    "gamma_raw",
    "effective_rank",
    "dead_total",
    "dead_relu",
    "dead_total_center_median",
    "dead_total_pca",
)
"""Columns of `layers` that are compared; the other table's are called the same with `_there` after them."""
RELEASED = {
    "dead_total": "dead_pct_init_topk",
    "dead_relu": "dead_pct_init_relu",
    "dead_total_center_median": "dead_pct_init_centered",
    "dead_total_pca": "dead_pct_init_pca",
}
"""Names of those columns, in percent, in the table that the paper released."""
COMPARED = {
    "model": pl.String,
    "layer": pl.Int64,
    "site": pl.String,
    "domain": pl.String,
    **{column: pl.Float64 for name in SHARED for column in (name, f"{name}_there")},
}
"""Columns of `compared`."""


def compared_table(compare: "CompareConfig", layers: pl.DataFrame) -> pl.DataFrame:
    """Makes a row for each layer of the suite that the other table has too.

    Raises:
        UserError: If the other table cannot be read, or has none of the suite's layers.
    """
    there = read_other(compare.table)
    names = {name: compare.names.get(name, name) for name in layers["model"].unique()}
    ours = layers.filter(site="residual").with_columns(pl.col("model").replace_strict(names).alias("_named"))
    found = ours.join(there, left_on=["_named", "layer"], right_on=["model", "layer"], how="inner", suffix="_there")
    if found.is_empty():
        known = ", ".join(sorted(set(there["model"])))
        raise UserError(
            f"{compare.table}: has none of the suite's layers; its models are {known}. Say which is which under "
            f"compare.names"
        )
    return found.select([pl.col(name).cast(kind) for name, kind in COMPARED.items()])


def read_other(path: Path) -> pl.DataFrame:
    """Reads another table's `model`, `layer` and the columns in `SHARED`, rates as fractions.

    It may be `tables/layers.csv` or `.parquet` of another suite, or the paper's init_stats.csv. A column that it lacks
    is null. Of several sites, the residual stream is kept.

    Raises:
        UserError: If the file is missing or is no such table.
    """
    frame = read_table(path, ["model", "layer"], ["layer"])
    released = RELEASED["dead_total"] in frame.columns
    names = {name: RELEASED.get(name, name) if released else name for name in SHARED}
    present = {name: column for name, column in names.items() if column in frame.columns}
    if "dead_total" not in present:
        raise UserError(
            f"{path}: no column 'dead_total' or '{RELEASED['dead_total']}'; columns: {', '.join(frame.columns)}"
        )
    frame = read_table(path, ["model", "layer"], ["layer", *present.values()])
    if "site" in frame.columns:
        frame = frame.filter(site="residual")
    if frame.select("model", "layer").is_duplicated().any():
        raise UserError(f"{path}: names a layer twice; it should have one row for each model and layer")
    share = {name: pl.col(column) / (100 if released and name in RELEASED else 1) for name, column in present.items()}
    columns = [share.get(name, pl.lit(None, pl.Float64)).alias(name) for name in SHARED]
    return frame.select("model", pl.col("layer").cast(pl.Int64), *columns)


@dataclass(frozen=True)
class Comparison:
    """Agreement of two tables on all dead latents of the layers that both have."""

    table: str
    """Name of the other table's file."""
    layers: int
    distance: float | None
    """Mean absolute difference of the rates, as a fraction; None if no layer has both."""
    rho: float | None
    """Rank correlation (Spearman); None with fewer than three layers, or if one of the tables has no order."""


def comparison(compare: "CompareConfig | None", compared: pl.DataFrame | None) -> Comparison | None:
    """Sums up the table that `compared_table` made; None if there is none."""
    if compare is None or compared is None:
        return None
    both = compared.drop_nulls(["dead_total", "dead_total_there"])
    distance = both.select((pl.col("dead_total") - pl.col("dead_total_there")).abs().mean()).item()
    rho = None
    if both.height > 2 and both["dead_total"].n_unique() > 1 and both["dead_total_there"].n_unique() > 1:
        rho = both.select(pl.corr("dead_total", "dead_total_there", method="spearman")).item()
    return Comparison(compare.table.name, compared.height, distance, rho)
