"""The table of training over steps: every record of every learning rate of every sweep."""

import logging
from typing import Any

import polars as pl

from saelib.config import Config
from saelib.report.results import Results
from saelib.report.tables import PLACE

log = logging.getLogger(__name__)

MEASURED = (
    *("probe_dead_relu", "probe_dead_topk_only", "probe_dead_total"),
    *("dead_relu", "dead_topk_only", "dead_total", "token_fvu_median", "variance_explained", "learning_rate"),
)
TRAINING = {
    **PLACE,
    "domain": pl.String,
    "variant": pl.String,
    "peak_learning_rate": pl.Float64,
    "best": pl.Boolean,
    "step": pl.Int64,
    **dict.fromkeys(MEASURED, pl.Float64),
}
"""Columns of `training`. `best`: whether the sweep chose this rate. `probe_dead_*`: dead on the first held-out tokens.
`dead_*`: the training's own flag, null until it can be raised."""

NOT_DRAWN = ("dead_relu", "dead_topk_only", "dead_total", "variance_explained", "learning_rate")
"""Columns that the page leaves out."""
SHOWN = 50
"""Records of a curve that the page keeps, at most; the table has all."""
PROBED = 2_048
"""Held-out tokens that a record is measured on, at most. It repeats `train.history.PROBE_ROWS`, which needs torch."""


def training_table(config: Config, results: Results) -> pl.DataFrame:
    """Makes a row for each record of each learning rate. A history that cannot be read is logged and left out."""
    tables = [pl.DataFrame(schema=TRAINING)]
    for place, sweep in results.sweeps.items():
        try:
            history = pl.read_parquet(config.train_path(*place) / "history.parquet")
            described = place.columns() | {"domain": config.models[place.model].domain}
            tables.append(_rows(history, described, sweep.best_learning_rate))
        except (OSError, pl.exceptions.PolarsError) as error:
            log.warning("%s: no curve of training: %s", place, str(error).splitlines()[0])
    return pl.concat(tables)


def thinned(training: pl.DataFrame) -> pl.DataFrame:
    """Keeps at most `SHOWN` records of each curve, the last one among them."""
    curve = [*PLACE, "variant", "peak_learning_rate"]
    last, row = pl.len().over(curve) - 1, pl.int_range(pl.len()).over(curve)
    return training.filter(((last - row) % (last // SHOWN + 1)) == 0)


def _rows(history: pl.DataFrame, described: dict[str, Any], best: float | None) -> pl.DataFrame:
    """Raises `PolarsError` if a column is missing or holds something else than numbers."""
    return (
        history.with_columns(pl.lit(value).alias(name) for name, value in described.items())
        .with_columns(best=pl.col("peak_learning_rate").eq_missing(best))
        .select(pl.col(name).cast(kind) for name, kind in TRAINING.items())
        .with_columns(pl.when(pl.col(pl.Float64).is_finite()).then(pl.col(pl.Float64)))
    )
