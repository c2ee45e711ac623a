"""The lab's results for the report: a table for each experiment, and the layout of its figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from saelib.config import Config
from saelib.config.grid import plain
from saelib.config.lab import ExperimentConfig, LabFigure, RecoveryExperiment
from saelib.errors import UserError
from saelib.lab.result import load_cell, rows_of
from saelib.pipeline.failures import Failures
from saelib.report.recovery import predicted_steps

DEFAULT_Y = {
    "init_death": ("dead_relu", "dead_total"),
    "gradient": ("gradient_ratio",),
    "training": ("dead_relu", "dead_topk_only"),
    "recovery": ("steps_bias_50", "steps_bias_90", "steps_bias_99", "steps_revived"),
    "remedies": ("dead_total", "token_fvu"),
}
"""Columns that a kind of experiment shows if its config names none."""
COLUMNS = {
    "dead_relu": "never positive (ReLU)",
    "dead_topk_only": "positive, never selected (TopK)",
    "dead_total": "never selected (all dead)",
    "gamma": "outlier severity γ",
    "gamma_seen": "outlier severity γ after the preprocessing",
    "gradient_ratio": "gradient of the matrices / gradient of the bias",
    "mean_norm": "norm of the mean, ‖μ‖",
    "tokens": "evaluation tokens",
    "step": "step",
    "mse": "mean squared error",
    "normalized_mse": "variance unexplained",
    "mean_kth_activation": "threshold: mean k-th activation",
    "bias_capture": "share of the mean in the bias",
    "feature_capture": "share of the mean in the latents",
    "mmcs": "recovered features (MMCS)",
    "mcc": "recovered features (MCC)",
    "f1": "latents as detectors of features (F1)",
    "fvu": "variance unexplained",
    "token_fvu": "variance unexplained of a typical token",
    "born_dead": "dead before training",
    "collateral_ratio": "collateral ratio: ReLU-dead gained / TopK-dead lost",
    "d_sae": "latents",
    "kurtosis": "excess kurtosis of the signal",
    "contaminated": "contaminated share of the tokens",
    "outlier_dimensions": "outlier dimensions",
    "learning_rate": "learning rate",
    "signal_scale": "scale of the signal",
    "alpha": "whitening α",
    "rank": "rank of the subspace",
    "shift": "mean of the pre-activation",
    "max_pre_activation": "largest pre-activation",
    "spread": "standard deviation of the pre-activation",
    "error_relu": "error of theory: ReLU-dead",
    "error_total": "error of theory: all dead",
    "corrected_error_relu": "error, corrected: ReLU-dead",
    "corrected_error_total": "error, corrected: all dead",
    "preprocessing": "preprocessing",
    "degrees_of_freedom": "degrees of freedom",
    "l0": "active latents per token (L0)",
    "steps_bias_50": "steps to half of the mean",
    "steps_bias_90": "steps to 90 %",
    "steps_bias_99": "steps to 99 %",
    "steps_revived": "steps to 5 % ReLU-dead",
    "least_steps": "least steps of a bias alone",
    "predicted_steps_bias_50": "predicted steps to half of the mean",
    "predicted_steps_bias_90": "predicted steps to 90 %",
    "predicted_steps_bias_99": "predicted steps to 99 %",
    "batch_size": "batch",
}
"""Words for the columns of the lab's tables; other columns keep their names."""
SHARES = ("dead_", "error_", "corrected_error_", "bias_capture", "feature_capture", "contaminated")
"""Beginnings of the columns that hold shares, which are shown in percent."""


class LabGap(NamedTuple):
    """A cell of an experiment that is not in its table."""

    experiment: str
    cell: str
    reason: str


@dataclass(frozen=True)
class ExperimentTable:
    """An experiment with the rows of its table."""

    name: str
    experiment: ExperimentConfig
    rows: pl.DataFrame
    """A row for each record of each cell that could be read (`saelib.lab.result.rows_of`)."""
    missing: tuple[LabGap, ...]

    @property
    def cells(self) -> int:
        """Number of cells of the grid."""
        return len(list(self.experiment.cells()))

    @property
    def table(self) -> str:
        """Gives the name of the table."""
        return f"lab_{self.name}"

    @property
    def figure_names(self) -> list[str]:
        """Names of the figures: that of the table if there is one, otherwise with the figure's own name."""
        keys = self.experiment.figures
        return [self.table] if len(keys) == 1 else [f"{self.table}_{key}" for key in keys]


def read_lab(config: Config, failures: Failures) -> list[ExperimentTable]:
    """Reads every experiment. Cells that are missing or unusable are listed, and raise nothing."""
    return [_read(config, name, experiment, failures) for name, experiment in config.experiments.items()]


def _read(config: Config, name: str, experiment: ExperimentConfig, failures: Failures) -> ExperimentTable:
    rows: list[dict[str, Any]] = []
    missing: list[LabGap] = []
    for cell in experiment.cells():
        failure = failures.get(("lab", name, -1, cell.name))
        path = config.lab_path(name, cell)
        if failure or not path.exists():
            missing.append(LabGap(name, cell.name, failure.reason if failure else "no result"))
            continue
        try:
            axes = {axis: plain(value) for axis, value in cell.axes.items()}
            of_cell = rows_of(load_cell(path), axes)
            if isinstance(experiment, RecoveryExperiment):
                of_cell = [row | predicted_steps(experiment, cell, row) for row in of_cell]
            rows += of_cell
        except UserError as error:
            missing.append(LabGap(name, cell.name, str(error).replace(str(path), path.name)))
    return ExperimentTable(name, experiment, pl.DataFrame(rows, infer_schema_length=None), tuple(missing))


@dataclass(frozen=True)
class Layout:
    """The rows and columns of an experiment's figure, and where each is drawn."""

    x: str
    y: tuple[str, ...]
    panels: tuple[Any, ...]
    """Values of the column `panel`, of which each has a column of panels."""
    lines: tuple[str, ...]
    """Values of the column `line`, in their order."""
    colors: tuple[str, ...]
    """Values of the column `color`, in their order; the same as `lines` unless the figure names a column."""
    caption: str
    ordered: bool
    """True if the lines are numbers of one column, so that their colors should show an order."""
    rows: pl.DataFrame
    """The rows to draw, with columns `panel`, `line` and `color` (texts)."""
    theory: Mapping[str, Mapping[str, str]]
    """Column of `y` -> column of a prediction -> its name in the legend."""
    log: bool
    log_y: tuple[str, ...]
    """Columns of `y` whose axis is logarithmic."""
    points: bool


def layouts(found: ExperimentTable) -> dict[str, Layout]:
    """Decides the layouts of an experiment's figures, by their names; those with nothing to show are left out.

    Remedies share the figure `remedies`, so they have others only if the config names some.
    """
    if found.experiment.kind == "remedies" and "figures" not in found.experiment.model_fields_set:
        return {}
    figures = found.experiment.figures.values()
    shown = {name: _layout(found, options) for name, options in zip(found.figure_names, figures, strict=True)}
    return {name: one for name, one in shown.items() if one is not None}


def _layout(found: ExperimentTable, options: LabFigure) -> Layout | None:
    rows = found.rows
    for column, values in options.where.items():
        rows = rows.filter([value in values for value in rows[column]]) if column in rows.columns else rows.clear()
    if rows.is_empty():
        return None
    kind: str = found.experiment.kind
    x = options.x or ("step" if "step" in rows.columns else _first_axis(found))
    y = tuple(name for name in options.y or DEFAULT_Y[kind] if name in rows.columns and rows[name].count())
    if x not in rows.columns or not y:
        return None
    if "step" in rows.columns and x != "step" and options.panels != "step":
        rows = rows.filter(pl.col("step") == rows["step"].max())
    chosen = options.lines if options.lines is not None else _differing(rows, x, y, options.panels)
    named = _names(rows, chosen)
    colored = _names(rows, (options.color,)) if options.color in rows.columns else named
    panel = _names(rows, (options.panels,) if options.panels else ())
    rows = rows.with_columns(line=pl.Series(named), panel=pl.Series(panel), color=pl.Series(colored)).drop_nulls([x])
    lines = tuple(dict.fromkeys(named))
    values = rows[x]
    positive = values.dtype.is_numeric() and values.min() > 0  # type: ignore[operator]
    wide = bool(positive and values.max() / values.min() >= 10)  # type: ignore[operator]
    return Layout(
        x=x,
        y=y,
        panels=tuple(dict.fromkeys(panel)),
        lines=lines,
        colors=tuple(dict.fromkeys(colored)),
        caption=options.shows,
        ordered=options.color is None and len(chosen) == 1 and rows[chosen[0]].dtype.is_numeric() and len(lines) > 2,
        rows=rows,
        theory={name: _theory(rows, name, options.theory) for name in y},
        log=wide and x != "step" if options.log is None else options.log,
        log_y=options.log_y if isinstance(options.log_y, tuple) else y if options.log_y else (),
        points=options.marks == "points",
    )


def _first_axis(found: ExperimentTable) -> str:
    cell = next(iter(found.experiment.cells()))
    numbers = [name for name, value in cell.axes.items() if isinstance(value, int | float)]
    return next((name for name in (*numbers, *cell.axes, "tokens", "mean_norm") if name in found.rows.columns), "")


def _differing(rows: pl.DataFrame, x: str, y: tuple[str, ...], panels: str | None) -> tuple[str, ...]:
    """Returns the columns of coordinates that differ between rows, other than those that are drawn already."""
    end = rows.columns.index("seeds")
    return tuple(name for name in rows.columns[:end] if name not in (x, panels, *y) and rows[name].n_unique() > 1)


def _names(rows: pl.DataFrame, columns: tuple[str, ...]) -> list[str]:
    """Names each row by these columns: by the value alone if it is text, otherwise 'γ = 2'."""
    return [
        ", ".join(text for name in columns if (text := _named(name, row[name]))) for row in rows.iter_rows(named=True)
    ]


def _named(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column.startswith("dead_"):  # of a single latent
        return "dead" if value else "alive"
    if isinstance(value, bool):
        return words(column) if value else f"not {words(column)}"
    if isinstance(value, str):
        return value
    symbol = {"gamma": "γ", "alpha": "α", "learning_rate": "rate", "tokens": "N"}.get(column, words(column))
    return f"{symbol} = {value:,}" if isinstance(value, int) else f"{symbol} = {value:g}"


def _theory(rows: pl.DataFrame, y: str, wanted: tuple[str, ...]) -> dict[str, str]:
    columns = {
        "predicted": (f"predicted_{y}", "theory"),
        "paper": (f"predicted_{y}_paper", "the paper's form"),
        "corrected": (f"corrected_{y}", "theory with kurtosis and rank"),
        "limit": (f"limit_{y}", "limit"),
    }
    return {column: label for name in wanted for column, label in [columns[name]] if column in rows.columns}


def is_share(column: str) -> bool:
    """Checks whether a column holds shares, which are shown in percent."""
    return column.startswith(SHARES)


def words(column: str) -> str:
    """Returns the words for a column."""
    return COLUMNS.get(column, column.replace("_", " "))
