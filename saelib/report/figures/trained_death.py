"""Figure of death after training, by model and variant (paper, Figs. 2a and S14)."""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saelib.config import Config
from saelib.report.figures.style import INK, letters, new_figure, percent_axis, rate_limits
from saelib.report.palette import CAUSES


def trained_death(config: Config, saes: pl.DataFrame) -> Figure | None:
    """Draws a column for each variant with a bar for each model; None if nothing was trained."""
    if saes.is_empty():
        return None
    site = pl.when(pl.col("site") == "residual").then(pl.lit("")).otherwise(pl.format(" {}", "site"))
    places = saes.select(pl.format("{} L{}{}", "model", "layer", site).alias("place"))["place"]
    models = places.unique(maintain_order=True).to_list()
    variants = [variant for variant in config.train.variants if variant in saes["variant"]]
    figure = new_figure(0.9 + 0.27 * len(models))
    panels = figure.subplots(1, len(variants), sharex=True, sharey=True, squeeze=False)[0]
    for axes, variant in zip(panels, variants, strict=True):
        chosen = saes.with_columns(place=places).filter(pl.col("variant") == variant)
        _bars(axes, [models.index(place) for place in chosen["place"]], chosen)
        axes.set_title(variant)
    panels[0].set_xlim(*rate_limits(saes["dead_total"].max(), room=1.25))  # type: ignore[arg-type]
    letters(panels)
    panels[0].set_yticks(range(len(models)), models)
    panels[0].set_ylim(len(models) - 0.4, -0.6)
    figure.supxlabel("latents dead after training, on held-out tokens", fontsize=8.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def _bars(axes: Axes, heights: list[int], saes: pl.DataFrame) -> None:
    left = np.zeros(len(heights))
    for cause, (label, color) in CAUSES.items():
        share = saes[cause].to_numpy()
        axes.barh(heights, share, left=left, height=0.62, color=color, label=label)
        left = left + share
    for height, total in zip(heights, saes["dead_total"], strict=True):
        axes.annotate(
            f"{100 * total:.1f}",
            (total, height),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=INK,
        )
    percent_axis(axes.xaxis, 3)
    axes.tick_params(axis="y", length=0)
