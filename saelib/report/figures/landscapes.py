"""Figure of every dimension's mean and spread after LayerNorm (paper, Figs. 2b and S1): outliers are spikes."""

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saelib.config import Config
from saelib.config.sites import at_site
from saelib.report.figures.style import QUIET, letters, new_figure, note
from saelib.report.palette import SKY, VERMILLION
from saelib.report.results import Place, place_of, read_landscape


def landscapes(config: Config, layers: pl.DataFrame) -> Figure | None:
    """Draws a panel for each model's representative (or middle) layer at each site; None if nothing can be read."""
    shown = [(place, found) for place in _places(config) if (found := read_landscape(config, place))]
    if not shown:
        return None
    columns = min(2, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(0.5 + 1.3 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    gammas = {place_of(row): row["gamma"] for row in layers.iter_rows(named=True)}
    for axes, (place, (mean, std)) in zip(grid.flat, shown, strict=False):
        _panel(axes, mean.astype(np.float64), std.astype(np.float64))
        axes.set_title(f"{place.model}, layer {place.layer}")
        gamma = gammas.get(place)
        note(axes, "" if gamma is None else f"γ = {gamma:.2f}")
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    letters(grid.flat[: len(shown)])
    figure.supxlabel("activation dimension", fontsize=8.5)
    figure.supylabel("LayerNormed activation", fontsize=8.5)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def _places(config: Config) -> list[Place]:
    middle = {name: model.layers[len(model.layers) // 2] for name, model in config.models.items()}
    return [
        Place(name, at_site(middle[name] if model.representative_layer is None else model.representative_layer, site))
        for name, model in config.models.items()
        for site in model.sites
    ]


def _panel(axes: Axes, mean: np.ndarray, std: np.ndarray) -> None:
    dimensions = np.arange(len(mean))
    axes.fill_between(dimensions, mean - std, mean + std, step="mid", color=SKY, alpha=0.6, lw=0, label="± 1 std")
    axes.vlines(dimensions, 0, mean, color=VERMILLION, lw=np.clip(150 / len(mean), 0.8, 3), label="mean over tokens")
    axes.axhline(0, color=QUIET, lw=0.5)
    axes.margins(x=0.01)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    _point_at_largest(axes, mean)


def _point_at_largest(axes: Axes, mean: np.ndarray) -> None:
    """Names the dimension with the largest mean beyond all data, with a line to the end of its bar."""
    largest = int(np.argmax(np.abs(mean)))
    low, high = axes.get_ylim()
    up = mean[largest] > 0
    room = 0.22 * (high - low)
    axes.set_ylim(low - room * (not up), high + room * up)
    right = largest < len(mean) / 2
    axes.annotate(
        f"dimension {largest}",
        (largest, mean[largest]),
        (largest, high + room if up else low - room),
        ha="left" if right else "right",
        va="top" if up else "bottom",
        fontsize=7.5,
        arrowprops={
            "arrowstyle": "-",
            "color": QUIET,
            "lw": 0.7,
            "shrinkA": 0,
            "shrinkB": 0,
            "relpos": (not right, 0.5),
        },
    )
