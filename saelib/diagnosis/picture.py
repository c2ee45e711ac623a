"""A diagnosis as a picture: death under each preprocessing by cause, and over the share of latents that fire."""

from typing import TYPE_CHECKING

import numpy as np

from saelib.diagnosis.names import SHOWN_AS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from saelib.diagnosis.result import Diagnosis

NEVER_POSITIVE, NEVER_SELECTED = "#9c3d54", "#e0a458"
COLORS = {
    "raw": "#9c3d54", "center_mean": "#e0a458", "center_median": "#2a6f97", "partial_pca": "#74a892", "pca": "#46494c",
}  # fmt: skip


def draw(found: "Diagnosis") -> "Figure":
    """Draws two panels: (a) counted death by cause, the prediction as a mark, (b) predictions over k / d_sae."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _by_cause(left, found)
    _over_sizes(right, found)
    figure.suptitle(found.verdict, fontsize=10, wrap=True)
    return figure


def _by_cause(axes: "Axes", found: "Diagnosis") -> None:
    names = list(found.predicted)[::-1]
    places = np.arange(len(names))
    relu = [found.dead(name).dead_relu * 100 for name in names]
    topk = [found.dead(name).dead_topk_only * 100 for name in names]
    axes.barh(places, relu, color=NEVER_POSITIVE, label="never positive")
    axes.barh(places, topk, left=relu, color=NEVER_SELECTED, label="positive, never selected")
    axes.plot([found.predicted[name].dead_total * 100 for name in names], places, "k|", ms=14, label="predicted")
    axes.set_yticks(places, [SHOWN_AS[name] for name in names])
    axes.set_xlim(left=0)
    axes.set_xlabel("dead latents (%)")
    axes.set_title("(a) by cause", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def _over_sizes(axes: "Axes", found: "Diagnosis") -> None:
    grid = found.landscape
    shares = np.array([[k / d_sae for k in grid.k] for d_sae in grid.d_sae])
    for name in ("raw", "center_median", "pca"):
        if name not in grid.dead_total:
            continue
        dead = 100 * np.array(grid.dead_total[name], np.float64)  # None becomes NaN
        known = ~np.isnan(dead)
        order = np.argsort(shares[known])
        axes.plot(shares[known][order], dead[known][order], ".-", color=COLORS[name], label=SHOWN_AS[name])
    axes.axvline(found.k / found.d_sae, color="black", lw=0.8, ls=":")
    axes.annotate(
        f"d_sae {found.d_sae:,}, k {found.k}", (found.k / found.d_sae, 1), xycoords=("data", "axes fraction"),
        ha="left", va="top", fontsize=8, xytext=(3, 0), textcoords="offset points",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0, None)
    axes.set_xlabel("k / d_sae")
    axes.set_ylabel("dead latents (%), predicted, TopK")
    axes.set_title(f"(b) for other sizes, {found.tokens:,} tokens", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.94))
    axes.spines[["top", "right"]].set_visible(False)
