"""Figure of death over the steps of training: a row for each trained layer, a column for each variant."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saelib.config import Config
from saelib.report.figures.style import QUIET, letters, new_figure, note, percent_axis, rate_limits
from saelib.report.palette import CAUSES
from saelib.report.results import place_of
from saelib.report.tables import PLACE


def training_curves(config: Config, training: pl.DataFrame) -> Figure | None:
    """Draws both causes at the best learning rate, and all dead at the others; None if no history could be read."""
    if training.is_empty():
        return None
    places = training.select(*PLACE).unique(maintain_order=True).rows(named=True)
    variants = [variant for variant in config.train.variants if variant in training["variant"]]
    figure = new_figure(0.9 + 1.25 * len(places))
    grid = figure.subplots(len(places), len(variants), sharex=True, sharey="row", squeeze=False)
    for row, place in zip(grid, places, strict=True):
        of_layer = training.filter(**place)
        for axes, variant in zip(row, variants, strict=True):
            _panel(axes, of_layer.filter(variant=variant))
            note(axes, variant)
        row[0].set_ylim(*rate_limits(of_layer["probe_dead_total"].max() or 0.0))  # type: ignore[arg-type]
        row[0].set_ylabel(f"{place['model']}\nlayer {place_of(place).layer}", fontsize=7.5)
    letters(grid.flat)
    figure.supxlabel("step", fontsize=8.5)
    named = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend([*named.values()], [*named], loc="outside upper left", ncols=len(named))
    return figure


def _panel(axes: Axes, records: pl.DataFrame) -> None:
    for rate in records["peak_learning_rate"].unique(maintain_order=True):
        curve = records.filter(peak_learning_rate=rate).drop_nulls([f"probe_{name}" for name in CAUSES])
        step = curve["step"].to_numpy()
        if curve["best"].any():
            shares = [curve[f"probe_{name}"].to_numpy() for name in CAUSES]
            labels, colors = [label for label, _ in CAUSES.values()], [color for _, color in CAUSES.values()]
            axes.stackplot(step, *shares, labels=labels, colors=colors, lw=0)
        else:
            axes.plot(step, curve["probe_dead_total"].to_numpy(), color=QUIET, lw=0.8, label="all dead, other rates")
    percent_axis(axes.yaxis, 3)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
