"""The common style of all figures: sizes for a README, and colors that color-blind readers can tell apart."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.typing import RcKeyType

from saelib.files.publish import published_file

WIDTH = 7.2
"""Inches; at 200 dots an inch, 1440 pixels."""

INK = "#222222"
QUIET = "#767676"

RC: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.titleweight": "bold",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "saelib",
    "text.parse_math": False,  # a domain may hold dollar signs
}


@contextmanager
def styled() -> Iterator[None]:
    """Applies the style; draw and save inside this block."""
    # It reports every glyph of every PDF, which would flood a job's log.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    with rc_context(RC):
        yield


def new_figure(height: float) -> Figure:
    """Makes a figure of the common width with automatic layout, without touching pyplot's global state."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def percent_axis(axis: Axis, ticks: int = 4) -> None:
    """Sets about `ticks` ticks and grid lines in percent, for rates given as fractions."""
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(PercentFormatter(xmax=1))
    axis.grid(True)


def rate_limits(largest: float, room: float = 1.06) -> tuple[float, float]:
    """Limits of an axis of rates: just below 0, and so far that the largest is seen, but at least 1 %."""
    top = max(largest, 0.01) * room
    return -0.04 * top, top


def letters(panels: Iterable[Axes]) -> None:
    """Writes a, b, c, ... to the left of the panels' titles, to cite them by."""
    for letter, axes in zip(ascii_lowercase, panels, strict=False):
        place = {"ha": "right", "va": "bottom", "fontsize": 10, "fontweight": "bold"}
        axes.annotate(letter, (0, 1), (-6, 4), "axes fraction", "offset points", **place)


def note(axes: Axes, text: str) -> None:
    """Writes small gray text above the right end of a panel, on the line of its title."""
    axes.annotate(
        text, (1, 1), (0, 5), "axes fraction", "offset points", color=QUIET, ha="right", va="bottom", fontsize=7.5
    )


WITHOUT_DATE: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}
"""The formats of a figure, and the metadata that would differ from run to run."""


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Publishes a figure as PDF, PNG and SVG, without a date, so the same figure gives the same bytes."""
    paths = [folder / f"{name}.{kind}" for kind in WITHOUT_DATE]
    for path, (kind, metadata) in zip(paths, WITHOUT_DATE.items(), strict=True):
        with published_file(path) as draft:
            figure.savefig(draft, format=kind, dpi=200, metadata=metadata)
    return paths


def remove(folder: Path, name: str) -> None:
    """Removes the files that `save` wrote."""
    for kind in WITHOUT_DATE:
        (folder / f"{name}.{kind}").unlink(missing_ok=True)
