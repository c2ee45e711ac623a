"""Figure `remedies`: death and error of every remedy on every data set, as two tables in color."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from saelib.report.figures.style import INK, letters, new_figure
from saelib.report.remedies import ratio_columns

LARGEST_RATIO = 4.0
"""Ratio of errors from which on colors are the same."""
PLACE = ["experiment", "data", "architecture"]


def remedies_figure(rows: pl.DataFrame) -> Figure | None:
    """Draws a row for each remedy and a column for each data set and architecture; None if there is no remedy.

    The left panel has the latents that are dead after training, the right one the typical token's error relative to the
    last variant that the experiments compare with.
    """
    ratios = ratio_columns(rows.columns)
    if not ratios:
        return None
    remedies = rows["variant"].unique(maintain_order=True).to_list()
    places = rows.select(PLACE).unique(maintain_order=True).rows()
    several = rows["experiment"].n_unique() > 1
    figure = new_figure(1.8 + 0.19 * len(remedies))
    left, right = figure.subplots(1, 2, sharey=True)
    death, error = (_values(rows, column, remedies, places) for column in ("dead_total", ratios[-1]))
    _table(left, death, [f"{100 * value:.0f}" for value in death.flat], ("Reds", 0, 1))
    largest = float(np.log2(LARGEST_RATIO))
    _table(right, np.log2(error), [f"{value:.2g}" for value in error.flat], ("PuOr_r", -largest, largest))
    left.set_title("all dead after training, %")
    right.set_title(f"typical FVU / {ratios[-1].partition('_over_')[2]}")
    left.set_yticks(range(len(remedies)), remedies, fontsize=7)
    for axes in (left, right):
        labels = [", ".join(place if several else place[1:]) for place in places]
        axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
        axes.tick_params(length=0)
    letters((left, right))
    return figure


def _values(
    rows: pl.DataFrame, column: str, remedies: Sequence[str], places: Sequence[tuple[str, ...]]
) -> NDArray[np.float64]:
    """Lays out a column as [remedies, places], with NaN for what is missing."""
    known = {(row["variant"], *(row[name] for name in PLACE)): row[column] for row in rows.to_dicts()}
    found = [[known.get((remedy, *place)) for place in places] for remedy in remedies]
    return np.array(found, dtype=np.float64)


def _table(axes: Axes, values: NDArray[np.float64], texts: Sequence[str], colors: tuple[str, float, float]) -> None:
    name, low, high = colors
    image = axes.imshow(values, cmap=name, vmin=low, vmax=high, aspect="auto")
    for ((y, x), value), text in zip(np.ndenumerate(values), texts, strict=True):
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(np.array([value]))[0]
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(x, y, text, ha="center", va="center", fontsize=5.5, color="white" if dark else INK)
