"""The page's interactive charts, as Vega-Lite. They hold no measurements: the page gives each its rows by name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from saelib.config import Config
from saelib.report.palette import ADVICE, BLUE, CAUSES, PREPROCESSINGS, RATES, VERMILLION, domain_colors
from saelib.report.tables import rate_column
from saelib.theory import closed_forms

# Vega copies colors unchanged into the SVG, so the charts follow the page into dark mode and onto paper.
INK = "currentColor"
_SITE = "(datum.site === 'residual' ? '' : ' ' + datum.site)"
_SERIES = f"datum.model + {_SITE}"
_PLACE = f"datum.model + ' L' + datum.layer + {_SITE}"
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")


@dataclass(frozen=True)
class Chart:
    """A chart, and the name of the rows that it shows."""

    rows: str
    spec: dict[str, Any]


def make_charts(config: Config, tables: Mapping[str, pl.DataFrame]) -> dict[str, Chart]:
    """Makes the charts that have something to show, by the id of their element in the page."""
    layers, saes, training = tables["layers"], tables["saes"], tables["training"]
    charts: dict[str, Chart] = {}
    if layers["recommendation"].count():
        charts["finding"] = _finding_chart(_series(config))
    gammas = layers.drop_nulls(["gamma_unit", "dead_total"]).filter(pl.col("gamma_unit") > 0)["gamma_unit"]
    if len(gammas):
        grid = np.geomspace(gammas.min() / 1.2, gammas.max() * 1.2, 200)  # type: ignore[operator]
        charts["death-relu"] = _gamma_chart(config, "dead_relu", grid)
        charts["death-total"] = _gamma_chart(config, "dead_total", grid)
        charts["by-layer"] = _layer_chart(_series(config))
    if "compared" in tables:
        charts["compared"] = _compared_chart(config)
    variants = list(config.train.variants)
    if not saes.is_empty():
        charts["trained"] = _trained_chart(_places(saes), variants)
    if not training.is_empty():
        charts["training"] = _training_chart([name for name in variants if name in training["variant"]])
    return charts


def _finding_chart(series: list[str]) -> Chart:
    """Every layer twice: as it is, and with what is recommended for it."""
    states = {"dead_total": "as it is", "recommended": "with the recommended preprocessing"}
    colors = alt.Scale(domain=list(states.values()), range=[VERMILLION, BLUE])
    shapes = alt.Scale(domain=list(states.values()), range=["circle", "triangle-up"])
    recommended = "datum.recommendation === 'raw' ? datum.dead_total : datum['dead_total_' + datum.recommendation]"
    chart = (
        alt.Chart(alt.NamedData("layers"))
        .transform_filter("isValid(datum.recommendation)")
        .transform_calculate(recommended=recommended, advice=_lookup("recommendation", ADVICE), series=_SERIES)
        .transform_fold(list(states), as_=["column", "dead"])
        .transform_filter("isValid(datum.dead)")
        .transform_calculate(state=_lookup("column", states))
        .mark_point(filled=True, size=55, opacity=0.75)
        .encode(
            alt.X("dead:Q", title="dead at initialization", axis=_percent_axis()),
            alt.Y("series:N", title=None, sort=series, axis=alt.Axis(grid=True, ticks=False, domain=False)),
            alt.YOffset("state:N", sort=list(states.values()), scale=alt.Scale(paddingOuter=0.2)),
            alt.Color("state:N", scale=colors, title=None),
            alt.Shape("state:N", scale=shapes, title=None),
            tooltip=[
                *(alt.Tooltip(name) for name in ("model:N", "layer:Q", "site:N", "state:N")),
                alt.Tooltip("dead:Q", format=".2%"),
                alt.Tooltip("advice:N", title="recommendation"),
            ],
        )
        .properties(height=alt.Step(34, **{"for": "position"}))
    )
    return Chart("layers", chart.to_dict())


def _training_chart(variants: list[str]) -> Chart:
    """Death over the steps of training: a panel for each cause and variant, a line for each learning rate."""
    columns = {f"probe_{name}": label for name, (label, _) in CAUSES.items()}
    two_lines = alt.Header(labelExpr="split(datum.label, '\\n')")
    panels = [f"{variant}\n{label}" for label in columns.values() for variant in variants]
    chart = (
        alt.Chart(alt.NamedData("training"))
        .transform_fold(list(columns), as_=["column", "dead"])
        .transform_filter("isValid(datum.dead)")
        .transform_calculate(panel=f"datum.variant + '\\n' + {_lookup('column', columns)}")
        .mark_line(point=alt.OverlayMarkDef(size=18))
        .encode(
            alt.X("step:Q", title="step", axis=_whole_numbers()),
            alt.Y("dead:Q", title=None, axis=_percent_axis(4)),
            alt.Color("peak_learning_rate:O", title="learning rate", scale=alt.Scale(range=list(RATES))),
            strokeWidth=alt.condition("datum.best", alt.value(3), alt.value(1)),
            facet=alt.Facet("panel:N", columns=len(variants), title=None, sort=panels, header=two_lines),
            tooltip=[
                *(alt.Tooltip(name) for name in ("model:N", "layer:Q", "site:N", "variant:N", "step:Q")),
                alt.Tooltip("peak_learning_rate:Q", title="learning rate"),
                alt.Tooltip("probe_dead_relu:Q", title="never positive", format=".2%"),
                alt.Tooltip("probe_dead_total:Q", title="all dead", format=".2%"),
                alt.Tooltip("token_fvu_median:Q", title="typical FVU", format=".3f"),
            ],
        )
        .properties(width=240, height=130)
    )
    return Chart("training", chart.to_dict())


def _gamma_chart(config: Config, column: str, grid: np.ndarray) -> Chart:
    colors = domain_colors(config)
    rate = alt.Y(f"{column}:Q", title="dead at initialization", axis=_percent_axis())
    scale = alt.Scale(type="log", domain=[grid[0], grid[-1]])
    gamma = alt.X(
        "gamma_unit:Q", title="outlier severity γ, of tokens of length 1", scale=scale, axis=alt.Axis(tickCount=8)
    )
    # The two panels share their legends: domains above the first, lines above the second.
    first = column == "dead_relu"
    domains = alt.Legend() if first else None
    color_scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    shape_scale = alt.Scale(domain=list(colors), range=[SHAPES[i % len(SHAPES)] for i in range(len(colors))])
    points = (
        alt.Chart(alt.NamedData("layers"))
        .transform_filter("datum.gamma_unit > 0")
        .transform_calculate(advice=_lookup("recommendation", ADVICE))
        .mark_point(filled=True, size=45, opacity=0.75)
        .encode(
            gamma,
            rate,
            alt.Color("domain:N", scale=color_scale, title=None, legend=domains),
            alt.Shape("domain:N", scale=shape_scale, title=None, legend=domains),
            tooltip=_layer_tooltip(),
        )
    )
    curve = (
        alt.Chart(alt.InlineData(_curve(config, column, grid)))
        .mark_line(color=INK, strokeWidth=1.5, clip=True)
        .encode(gamma, rate, alt.StrokeDash("curve:N", title=None, sort=None, legend=None if first else alt.Legend()))
    )
    return Chart("layers", alt.layer(points, curve).properties(height=260).to_dict())


def _curve(config: Config, column: str, grid: np.ndarray) -> list[dict[str, Any]]:
    tokens, d_sae, k = config.extraction.heldout_tokens, config.init_death.d_sae, config.init_death.k
    curves = (
        {"theory": closed_forms.dead_relu(grid, tokens)}
        if column == "dead_relu"
        else {
            "theory": closed_forms.dead_total(grid, d_sae, k, tokens),
            "the paper's form": closed_forms.dead_total_paper(grid, d_sae, k, tokens),
        }
    )
    return [
        {"curve": name, "gamma_unit": float(gamma), column: float(rate)}
        for name, rates in curves.items()
        for gamma, rate in zip(grid, rates, strict=True)
    ]


def _series(config: Config) -> list[str]:
    """Models, and their other sites than the residual stream, as `_SERIES` names them: 'gpt2', 'gpt2 mlp_out'."""
    return [f"{name} {site}".removesuffix(" residual") for name, model in config.models.items() for site in model.sites]


def _compared_chart(config: Config) -> Chart:
    """Death of each layer here against that in the other table; equal rates lie on the line."""
    colors = domain_colors(config)
    there = alt.X("dead_total_there:Q", title="all dead there", axis=_percent_axis())
    here = alt.Y("dead_total:Q", title="all dead here", axis=_percent_axis())
    points = (
        alt.Chart(alt.NamedData("compared"))
        .transform_filter("isValid(datum.dead_total) && isValid(datum.dead_total_there)")
        .mark_point(filled=True, size=45, opacity=0.75)
        .encode(
            there,
            here,
            alt.Color("domain:N", scale=alt.Scale(domain=list(colors), range=list(colors.values())), title=None),
            tooltip=[
                *(alt.Tooltip(name) for name in ("model:N", "layer:Q")),
                alt.Tooltip("dead_total:Q", title="all dead here", format=".1%"),
                alt.Tooltip("dead_total_there:Q", title="all dead there", format=".1%"),
            ],
        )
    )
    ends = alt.InlineData([{"dead_total": rate, "dead_total_there": rate} for rate in (0, 1)])
    equal = alt.Chart(ends).mark_line(color=INK, strokeWidth=1, strokeDash=[4, 4]).encode(there, here)
    return Chart("compared", alt.layer(equal, points).properties(height=320).to_dict())


def _layer_chart(series: list[str]) -> Chart:
    columns = {rate_column(name): shown for name, shown in PREPROCESSINGS.items()}
    labels = {column: label for column, (label, _) in columns.items()}
    scale = alt.Scale(domain=list(labels.values()), range=[color for _, color in columns.values()])
    chart = (
        alt.Chart(alt.NamedData("layers"))
        .transform_fold([*reversed(columns)], as_=["column", "dead"])
        .transform_calculate(preprocessing=_lookup("column", labels), series=_SERIES)
        .transform_filter("isValid(datum.dead)")
        .mark_line(point=alt.OverlayMarkDef(size=22), strokeWidth=1.5)
        .encode(
            alt.X("layer:Q", title="layer", scale=alt.Scale(zero=False, nice=False, padding=8), axis=_whole_numbers()),
            alt.Y("dead:Q", title=None, axis=_percent_axis(4)),
            alt.Color("preprocessing:N", scale=scale, title=None),
            alt.Facet("series:N", columns=3, title=None, sort=series),
            tooltip=["model:N", "layer:Q", "site:N", "preprocessing:N", alt.Tooltip("dead:Q", format=".2%")],
        )
        .properties(width=275, height=120)
        .resolve_scale(x="independent")
    )
    return Chart("layers", chart.to_dict())


def _trained_chart(places: list[str], variants: list[str]) -> Chart:
    labels = {column: label for column, (label, _) in CAUSES.items()}
    colors = alt.Scale(domain=list(labels.values()), range=[color for _, color in CAUSES.values()])
    chart = (
        alt.Chart(alt.NamedData("saes"))
        .transform_fold(list(labels), as_=["column", "dead"])
        .transform_calculate(cause=_lookup("column", labels), place=_PLACE)
        .mark_bar()
        .encode(
            alt.X("dead:Q", title=None, axis=_percent_axis(3)),
            alt.Y("place:N", title=None, sort=places),
            alt.Color("cause:N", scale=colors, title=None),
            alt.Order("column:O"),
            alt.Facet("variant:N", columns=4, title=None, sort=variants),
            tooltip=[
                "model:N",
                "layer:Q",
                "site:N",
                "variant:N",
                "cause:N",
                alt.Tooltip("dead:Q", format=".2%"),
                alt.Tooltip("dead_total:Q", title="all dead", format=".2%"),
                alt.Tooltip("token_fvu_median:Q", title="typical FVU", format=".3f"),
                alt.Tooltip("variance_explained:Q", title="variance explained", format=".3f"),
            ],
        )
        .properties(width=205, height=alt.Step(20))
    )
    return Chart("saes", chart.to_dict())


def _places(saes: pl.DataFrame) -> list[str]:
    """Trained layers, as `_PLACE` names them: 'gpt2 L5', 'gpt2 L5 mlp_out'."""
    rows = saes.select("model", "layer", "site").unique(maintain_order=True).iter_rows()
    return [f"{model} L{layer} {site}".removesuffix(" residual") for model, layer, site in rows]


def _layer_tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("model:N"),
        alt.Tooltip("layer:Q"),
        alt.Tooltip("site:N"),
        alt.Tooltip("gamma_unit:Q", title="γ", format=".2f"),
        alt.Tooltip("gamma:Q", title="γ after LayerNorm", format=".2f"),
        alt.Tooltip("dead_relu:Q", title="ReLU-dead", format=".2%"),
        alt.Tooltip("dead_total:Q", title="all dead", format=".2%"),
        alt.Tooltip("predicted_dead_relu:Q", title="theory: ReLU-dead", format=".2%"),
        alt.Tooltip("predicted_dead_total:Q", title="theory: all dead", format=".2%"),
        alt.Tooltip("dead_total_center_median:Q", title="all dead, centered", format=".2%"),
        alt.Tooltip("advice:N", title="recommendation"),
    ]


def _whole_numbers() -> alt.Axis:
    return alt.Axis(tickCount=5, grid=False, ticks=False, labelExpr="datum.value % 1 ? '' : datum.value")


def _percent_axis(ticks: int = 5) -> alt.Axis:
    return alt.Axis(format=".0%", tickCount=ticks)


def _lookup(field: str, labels: dict[str, str]) -> str:
    """A Vega expression that maps the values of a field; the labels are ours."""
    return f"{json.dumps(labels)}[datum.{field}]"
