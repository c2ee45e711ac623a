"""Figure of the evaluation: each measure in a panel, each layer a row, each kind of SAE a color."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saelib.report.figures.style import QUIET, letters, new_figure
from saelib.report.palette import line_colors

MEASURES = {
    "typical_explained_variance": "explained variance",
    "mcc_between_seeds": "MCC between seeds",
    "twin_cosine_mean": "nearest twin (cosine)",
    "concept_f1": "mean concept F1",
    "probe_auc": "probe AUC",
    "monosemanticity": "monosemanticity",
    "ce_loss_score": "loss recovered",
}
"""Column of `evaluation` -> the title of its panel. Higher is better in each."""
PER_LINE = 4
"""Panels next to each other; more are drawn below."""
LOWEST = -0.25
"""Points further to the left are drawn here, as arrows: an SAE can explain less than nothing."""
ARROW = "<"


def evaluation_figure(table: pl.DataFrame) -> Figure | None:
    """Draws the measures that some SAE has; None if nothing was evaluated."""
    shown = [name for name in MEASURES if not table.is_empty() and table[name].count()]
    if not shown:
        return None
    site = pl.when(pl.col("site") == "residual").then(pl.lit("")).otherwise(pl.format(" {}", "site"))
    table = table.with_columns(place=pl.format("{} L{}{}", "model", "layer", site))
    places = table["place"].unique(maintain_order=True).to_list()
    trained = table.filter("trained")["kind"].unique(maintain_order=True).to_list()
    baselines = table.filter(~pl.col("trained"))["kind"].unique(maintain_order=True).to_list()
    colors = line_colors(trained, ordered=False)
    lines = -(-len(shown) // PER_LINE)
    figure = new_figure(1 + lines * (0.5 + 0.3 * len(places)))
    grid = figure.subplots(lines, min(len(shown), PER_LINE), sharey=True, squeeze=False).ravel()
    panels = grid[: len(shown)]
    for unused in grid[len(shown) :]:
        unused.remove()
    for axes, name in zip(panels, shown, strict=True):
        for number, kind in enumerate([*trained, *baselines]):
            rows = table.filter(pl.col("kind") == kind).drop_nulls([name])
            _points(axes, rows, name, places, kind, colors.get(kind), 0.1 * (number - len(trained) / 2))
        axes.set_title(MEASURES[name], fontsize=8)
        axes.grid(True, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.tick_params(axis="y", length=0)
    letters(panels)
    panels[0].set_yticks(range(len(places)), places)
    panels[0].set_ylim(len(places) - 0.4, -0.6)
    if any((table[name] < LOWEST).any() for name in shown):
        style = {"c": "none", "edgecolors": QUIET, "linewidths": 0.8}
        panels[0].scatter([], [], s=20, marker=ARROW, label=f"below \N{MINUS SIGN}{-LOWEST}", **style)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return figure


def _points(
    axes: Axes, rows: pl.DataFrame, name: str, places: list[str], kind: str, color: str | None, shift: float
) -> None:
    """Draws the SAEs of a kind: filled points if they were trained, hollow gray ones if they are a baseline."""
    marker = {"random directions": "s", "raw neurons": "^", "principal components": "D"}.get(kind, "o")
    style = {"c": color or "none", "edgecolors": color or QUIET, "linewidths": 0.8}
    outside = rows[name] < LOWEST
    axes.scatter([], [], s=16, marker=marker, label=kind, **style)
    for part, symbol, size in ((rows.filter(~outside), marker, 16), (rows.filter(outside), ARROW, 20)):
        y = [places.index(place) + (shift if color else 0.3) for place in part["place"]]
        axes.scatter(part[name].clip(LOWEST, None).to_list(), y, s=size, marker=symbol, **style)
