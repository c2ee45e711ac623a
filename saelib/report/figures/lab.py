"""Figure of an experiment of the lab: measured columns over an axis of its grid, with intervals and theory."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from saelib.report.figures.style import INK, letters, new_figure, percent_axis, rate_limits
from saelib.report.lab import ExperimentTable, Layout, is_share, layouts, words
from saelib.report.palette import line_colors

DASHES: Mapping[str, tuple[int, tuple[float, ...]]] = {
    "theory": (0, (4, 2)),
    "the paper's form": (0, (1, 1.2)),
    "theory with kurtosis and rank": (0, (6, 1.5, 1, 1.5)),
    "limit": (0, (1, 3)),
}
"""Line styles of the predictions."""
MANY = 20
"""Points of a line beyond which its interval is a band instead of bars."""


TITLE = 84
"""Characters that the titles of a row of panels have room for, together."""


def lab_figures(found: ExperimentTable) -> dict[str, Figure | None]:
    """Draws every figure of an experiment, by name; None for one that has nothing to show."""
    shown = layouts(found)
    return {name: _figure(shown[name]) if name in shown else None for name in found.figure_names}


def _figure(shown: Layout) -> Figure:
    """Draws a row of panels for each measured column or, if each has only one panel, up to three in a row."""
    stacked = len(shown.panels) == 1 and len(shown.y) > 1
    ncols = (2 if len(shown.y) == 4 else min(len(shown.y), 3)) if stacked else len(shown.panels)
    nrows = -(-len(shown.y) // ncols) if stacked else len(shown.y)
    figure = new_figure(0.75 + 2.1 * nrows)
    grid = figure.subplots(nrows, ncols, squeeze=False, sharex=not stacked or len(shown.y) == ncols)
    places = [(y, panel) for y in shown.y for panel in shown.panels]
    for axes, (y, panel) in zip(grid.flat, places, strict=False):
        _panel(axes, shown, y, shown.rows.filter(panel=panel))
        axes.set_title(fill(words(y) if len(shown.panels) == 1 else panel, TITLE // ncols))
        if len(shown.panels) > 1 and panel == shown.panels[0]:
            axes.set_ylabel(words(y))
    for axes in grid.flat[len(places) :]:
        axes.set_visible(False)
    letters(grid.flat[: len(places)])
    figure.supxlabel(words(shown.x), fontsize=8.5)
    _legend(figure, list(grid.flat)[: len(places)])
    return figure


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    named = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    named = {label: named[label] for label in sorted(named, key=lambda label: label in DASHES)}  # measurements first
    if named:
        columns = min(len(named), max(1, 105 // (8 + max(map(len, named)))))
        figure.legend([*named.values()], [*named], loc="outside upper left", ncols=columns, columnspacing=1.2)


def _panel(axes: Axes, shown: Layout, y: str, rows: pl.DataFrame) -> None:
    colors = line_colors(shown.colors, shown.ordered)
    for line in shown.lines:
        own = rows.filter(line=line).drop_nulls([y])
        own = own.sort(shown.x) if own[shown.x].dtype.is_numeric() else own
        if own.is_empty():
            continue
        group = own["color"][0]
        color, label = colors[group], group or "measured"
        if shown.points:
            axes.scatter(own[shown.x], own[y], s=7, color=color, alpha=0.6, lw=0, label=label)
        else:
            _measured(axes, shown.x, y, own, color, label)
        for column, name in shown.theory[y].items():
            known = own.drop_nulls([column])
            ink = INK if len(shown.lines) == 1 else color
            axes.plot(known[shown.x], known[column], color=ink, lw=1, ls=DASHES[name], zorder=1)
            axes.plot([], [], color=INK, lw=1, ls=DASHES[name], label=name)
    _x_axis(axes, shown, rows[shown.x])
    if y in shown.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, axis="y")
    elif is_share(y):
        percent_axis(axes.yaxis)
        if y.startswith("dead_"):  # intervals of few seeds can be wider than the range of a rate
            low, high = rate_limits(min(axes.get_ylim()[1], 1), room=1.04)
            axes.set_ylim(max(axes.get_ylim()[0], low), high)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(True, axis="y")


def _x_axis(axes: Axes, shown: Layout, values: pl.Series) -> None:
    if not values.dtype.is_numeric():
        names = values.unique(maintain_order=True).to_list()
        axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=7)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif shown.log:
        axes.set_xscale("log")
        wide = values.max() / values.min() > 300  # type: ignore[operator]
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """Writes a number in few characters: 1e-4, 0.001, 20, 300k, 1M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    if 0 < abs(value) < 1e-3:
        digits, exponent = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:g}"


def _measured(axes: Axes, x: str, y: str, own: pl.DataFrame, color: str, label: str) -> None:
    if own[f"{y}_low"].null_count() == own.height and own.height > 1:  # a single seed
        axes.plot(own[x], own[y], color=color, lw=0.8, alpha=0.8, label=label)
        return
    low, high = (own[f"{y}_{end}"].fill_null(own[y]) for end in ("low", "high"))
    if own.height > MANY:
        axes.plot(own[x], own[y], color=color, lw=1.3, label=label)
        axes.fill_between(own[x], low, high, color=color, alpha=0.15, lw=0)
        return
    line = "-" if own[x].dtype.is_numeric() else ""
    errors = [(own[y] - low).to_numpy(), (high - own[y]).to_numpy()]
    axes.errorbar(
        own[x], own[y], errors, color=color, ls=line, lw=1, marker="o", ms=3, elinewidth=0.9, capsize=1.5, label=label
    )
