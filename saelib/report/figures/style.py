"""The common style of all figures: sizes for a README, and colors that color-blind readers can tell apart."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
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
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style; draw and save inside this block."""
    # It reports every glyph of every PDF, which would flood a job's log.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    with rc_context(RC):
        yield


def new_figure(height: float) -> Figure:
    """Make a figure of the common width with automatic layout, without touching pyplot's global state."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def percent_axis(axis: Axis, ticks: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1)) -> None:
    """Set ticks and grid lines in percent, for rates given as fractions."""
    axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axis.set_ticks(ticks)
    axis.grid(True)


def note(axes: Axes, text: str) -> None:
    """Write small gray text above the right end of a panel, on the line of its title."""
    axes.annotate(
        text, (1, 1), (0, 5), "axes fraction", "offset points", color=QUIET, ha="right", va="bottom", fontsize=7.5
    )


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Publish a figure as PDF and PNG, without a date, so the same figure gives the same bytes."""
    paths = [folder / f"{name}.pdf", folder / f"{name}.png"]
    for path in paths:
        kind = path.suffix[1:]
        with published_file(path) as draft:
            metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
            figure.savefig(draft, format=kind, dpi=200, metadata=metadata)
    return paths


def remove(folder: Path, name: str) -> None:
    """Remove the files that `save` wrote."""
    for suffix in ("pdf", "png"):
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)
