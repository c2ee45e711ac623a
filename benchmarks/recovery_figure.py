"""Draws how long recovery takes: steps against gamma, and measured against predicted steps of all trainings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.recovery import LATER, TABLE, Training, by_severity, columns, read_table
from benchmarks.timing import command_line
from saelib.theory.recovery import LAW, SHARES

OUT = Path(__file__).parents[1] / "docs" / "images" / "recovery.png"
LABELS = {"bias_50": "50 % of the mean in the bias", "bias_90": "90 %", "bias_99": "99 %"}


def main(argv: list[str]) -> None:
    parser = command_line("recovery_figure", __doc__)
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="the figure")
    options = parser.parse_args(argv)
    draw(read_table(TABLE), options.out)


def draw(trainings: Sequence[Training], path: Path) -> None:
    """Draws the steps against gamma, measured and by the law, and measured against predicted steps of all trainings."""
    import matplotlib

    matplotlib.use("agg")
    from saelib.report.figures.style import INK, letters, new_figure

    figure = new_figure(2.9)
    panels = figure.subplots(1, 2, sharey=True)
    severities = by_severity(trainings)
    gammas = np.geomspace(severities[0].gamma, severities[-1].gamma)
    at = severities[0].settings | {"gamma": gammas, "mean_norm": gammas * severities[0].signal_norm}
    for color, event in zip(("#3d6fb6", "#d0862c", "#4a9464"), SHARES, strict=True):
        measured = [getattr(one, event) for one in severities]
        panels[0].scatter([one.gamma for one in severities], measured, color=color, s=14, lw=0)
        panels[0].plot(gammas, LAW.steps(event, at), color=color, lw=1)
        for group, style in (
            (trainings, {"marker": "o", "s": 9, "alpha": 0.75, "lw": 0}),
            (read_table(LATER), {"marker": "x", "s": 16, "lw": 1}),
        ):
            reached = [one for one in group if one.covered and getattr(one, event) is not None]
            by_law = LAW.steps(event, columns(reached))
            label = LABELS[event] if group is trainings else None
            panels[1].scatter(by_law, [getattr(one, event) for one in reached], color=color, label=label, **style)
    panels[0].plot([], [], color=INK, lw=1, label="the law")
    panels[1].scatter([], [], color=INK, label="run when the law was fixed", marker="x", s=16, lw=1)
    panels[1].axline((1e4, 1e4), (1e5, 1e5), color=INK, lw=0.8, ls="--", label="both axes equal")
    panels[0].set(xscale="log", yscale="log", xlabel="\u03b3", ylabel="measured steps")
    panels[0].set_xticks([one.gamma for one in severities], [f"{one.gamma:g}" for one in severities], minor=False)
    panels[0].tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    panels[1].set(xscale="log", xlabel="predicted steps")
    letters(panels)
    figure.legend(loc="outside upper left", ncols=3)
    figure.savefig(path, dpi=160)
