"""Figure of measured death at initialization against outlier severity, with the closed forms (paper, Fig. 4b)."""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from saelib.config import Config
from saelib.report.figures.style import INK, QUIET, letters, new_figure, percent_axis, rate_limits
from saelib.report.palette import domain_colors
from saelib.theory import closed_forms

MARKERS = ("o", "s", "^", "D", "v", "P")


def death_vs_gamma(config: Config, layers: pl.DataFrame, spearman: pl.DataFrame) -> Figure | None:
    """Draws one point per layer, ReLU-dead left and all dead right; None if nothing was measured."""
    shown = layers.drop_nulls(["gamma_unit", "dead_total", "dead_relu"]).filter(pl.col("gamma_unit") > 0)
    if shown.is_empty():
        return None
    figure = new_figure(3.5)
    panels = figure.subplots(1, 2, sharex=True)
    titles = {"dead_relu": "Never positive (dead by ReLU)", "dead_total": "Never selected (all dead)"}
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        _points(axes, config, shown, column)
        axes.set_title(f"{title}\n")
        text = _correlation(spearman, column)
        axes.annotate(text, (0, 1), (0, 5), "axes fraction", "offset points", color=QUIET, fontsize=7.5)
        percent_axis(axes.yaxis)
    _theory(config, panels, shown["gamma_unit"].to_numpy())
    _gamma_axis(panels, shown["gamma_unit"].to_numpy())
    for axes in panels:
        axes.set_ylim(*rate_limits(max(np.max(line.get_ydata()) for line in axes.lines)))
    letters(panels)
    figure.supxlabel("outlier severity γ = ‖mean‖ / ‖std‖ of the tokens scaled to length 1", fontsize=8.5)
    panels[0].set_ylabel("latents dead at initialization")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), handletextpad=0.4, columnspacing=1.2)
    return figure


def _points(axes: Axes, config: Config, shown: pl.DataFrame, column: str) -> None:
    for i, (domain, color) in enumerate(domain_colors(config).items()):
        of_domain = shown.filter(pl.col("domain") == domain)
        if not of_domain.is_empty():
            axes.scatter(
                of_domain["gamma_unit"],
                of_domain[column],
                s=16,
                marker=MARKERS[i % len(MARKERS)],
                color=color,
                alpha=0.75,
                edgecolors="white",
                linewidths=0.3,
                label=domain,
            )


def _theory(config: Config, panels: np.ndarray, measured: np.ndarray) -> None:
    gamma = np.geomspace(measured.min() / 1.3, measured.max() * 1.3, 400)
    tokens, d_sae, k = config.extraction.heldout_tokens, config.init_death.d_sae, config.init_death.k
    relu, total = panels
    relu.plot(gamma, closed_forms.dead_relu(gamma, tokens), color=INK, lw=1.3)
    total.plot(gamma, closed_forms.dead_total(gamma, d_sae, k, tokens), color=INK, lw=1.3, label="theory")
    paper = closed_forms.dead_total_paper(gamma, d_sae, k, tokens)
    total.plot(gamma, paper, color=INK, lw=1.1, ls=(0, (4, 2)), label="the paper's form")


def _gamma_axis(panels: np.ndarray, measured: np.ndarray) -> None:
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xlim(measured.min() / 1.3, measured.max() * 1.3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _correlation(spearman: pl.DataFrame, column: str) -> str:
    """Writes the rank correlation, with its interval over whole models if there is one."""
    row = spearman.filter(by="", x="gamma_unit", y=column).row(0, named=True)
    if row["rho"] is None:
        return row["reason"]
    interval = f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]" if row["ci_low"] is not None else ""
    return f"Spearman {row['rho']:.2f}{interval}, {row['n']} layers of {row['n_clusters']} models"
