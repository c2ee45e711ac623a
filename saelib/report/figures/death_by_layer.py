"""Figure of death at initialization along the depth of every model, with and without preprocessing."""

import math

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saelib.report.figures.style import letters, new_figure, note, percent_axis, rate_limits
from saelib.report.palette import PREPROCESSINGS
from saelib.report.tables import rate_column

COLUMNS = 3
WIDTHS = {"raw": 1.2, "center_median": 1.9, "pca": 2.8}
"""Lines often overlap at zero; all stay visible, because those drawn later are thinner."""
COLUMN_OF = {name: rate_column(name) for name in PREPROCESSINGS}


def death_by_layer(layers: pl.DataFrame) -> Figure | None:
    """Draws a panel for each model, and each site of its layers; None if nothing was measured."""
    measured = _with_series(layers).filter(pl.any_horizontal(pl.col(*COLUMN_OF.values()).is_not_null()))
    models = measured["series"].unique(maintain_order=True)
    if len(models) == 0:
        return None
    columns = min(COLUMNS, len(models))
    rows = math.ceil(len(models) / columns)
    figure = new_figure(max(0.7 + 1.3 * rows, 2.4))
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, model in zip(grid.flat, models, strict=False):
        _panel(axes, measured.filter(pl.col("series") == model))
    for axes in grid.flat[len(models) :]:
        axes.set_visible(False)
    largest = measured.select(pl.max_horizontal(*COLUMN_OF.values()).max()).item()
    grid[0, 0].set_ylim(*rate_limits(largest))
    letters(grid.flat[: len(models)])
    figure.supxlabel("layer", fontsize=8.5)
    figure.supylabel("dead at initialization", fontsize=8.5)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper left", ncols=len(labels))
    return figure


def _with_series(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds a column `series`, which names model and site: 'gpt2', 'gpt2 mlp_out'."""
    other = pl.format("{} {}", "model", "site")
    return frame.with_columns(series=pl.when(pl.col("site") == "residual").then("model").otherwise(other))


def _panel(axes: Axes, model: pl.DataFrame) -> None:
    layer = model["layer"].to_numpy()
    for name, (label, color) in reversed(PREPROCESSINGS.items()):
        width = WIDTHS[name]
        axes.plot(
            layer, model[COLUMN_OF[name]].to_numpy(), color=color, lw=width, marker="o", ms=width + 0.8, label=label
        )
    axes.set_title(model["series"][0])
    note(axes, model["domain"][0])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlim(layer.min() - 0.7, layer.max() + 0.7)
    percent_axis(axes.yaxis)
