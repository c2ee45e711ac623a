"""The page: one HTML file that holds its charts, scripts and rows, and opens from disk without a network.

Text from the config and from result files was written by somebody else. Jinja escapes it, rows are embedded as JSON
that no browser runs, and the page's own policy allows its two scripts by their hashes, and no network.
"""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import numpy as np
import polars as pl
import vl_convert

import saelib
from saelib import theory
from saelib.config import Config
from saelib.preprocessing.choose import percent
from saelib.preprocessing.recommend import ACCEPTED, ORDER, TOLERATED
from saelib.report.charts import make_charts
from saelib.report.palette import ADVICE, PREPROCESSINGS
from saelib.report.results import Place, Results, wanted_layers, wanted_saes, where
from saelib.report.tables import trained_saes

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Column:
    """A column of a table in the page."""

    name: str
    title: str
    help: str = ""
    show: Callable[[Any], str] | None = None
    """Converts a number to text; None: the column holds text."""


def _decimals(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}"


LAYER_COLUMNS = (
    Column("model", "model"),
    Column("layer", "layer", show=str),
    Column("domain", "domain"),
    Column("recommendation", "recommendation"),
    Column("gamma_unit", "γ", "outlier severity of the tokens scaled to length 1: it predicts death", _decimals(2)),
    Column("gamma", "γ LN", "the same after LayerNorm of each token, as in the paper", _decimals(2)),
    Column("gamma_raw", "γ raw", "the same on the tokens as they are", _decimals(2)),
    Column("effective_rank", "eff. rank", "directions in which the activations vary", _decimals(0)),
    Column("d_in", "of", "dimensions of the activations", str),
    Column("predicted_dead_total", "theory", "all dead, as the closed form predicts from γ (the solid line)", percent),
    Column("dead_relu", "ReLU-dead", "never positive; raw activations", percent),
    Column("dead_total", "all dead", "never selected; raw activations", percent),
    Column("dead_total_center_median", "centered", "all dead after centering on the geometric median", percent),
    Column("dead_total_pca", "whitened", "all dead after PCA whitening", percent),
)
SAE_COLUMNS = (
    Column("model", "model"),
    Column("layer", "layer", show=str),
    Column("domain", "domain"),
    Column("variant", "variant"),
    Column("preprocessing", "preprocessing"),
    Column("architecture", "architecture"),
    Column("dead_latents", "dead latents", "how training treats latents that stopped firing"),
    Column("learning_rate", "learning rate", "the best of the sweep", lambda value: f"{value:g}"),
    Column("learning_rate_at_end", "at an end?", "whether the best rate is the lowest or the highest of those tried"),
    Column(
        "token_fvu_median",
        "typical FVU",
        "median of each token's unexplained fraction; 0 is perfect",
        _decimals(3),
    ),
    Column("token_fvu_mean", "mean token FVU", "the mean of the same", _decimals(3)),
    Column("variance_explained", "variance explained", "over all tokens together; 1 is perfect", _decimals(3)),
    Column(
        "few_tokens_decide",
        "few tokens decide?",
        "whether the two disagree (docs/training.md); if so, go by the typical FVU",
    ),
    Column("normalized_mse", "normalized MSE", "mean squared error over the training rows' variance", _decimals(3)),
    Column("l0", "L0", "latents that fire per token, on average", _decimals(1)),
    Column("dead_relu", "ReLU-dead", "never positive", percent),
    Column("dead_topk_only", "TopK-dead", "positive somewhere, never selected", percent),
    Column("dead_total", "all dead", "never selected", percent),
)


def _cost_columns() -> tuple[Column, ...]:
    """Make columns for each candidate of the recommendation: how many it leaves dead, and how much its SAE explains."""
    columns = [Column("model", "model"), Column("layer", "layer", show=str), Column("recommendation", "recommendation")]
    for name in ORDER:
        label = PREPROCESSINGS[name][0]
        columns += [
            Column(f"born_dead_{name}", f"{label}: born dead", "all dead at initialization", percent),
            Column(f"dead_{name}", "dead, trained", f"{label}: all dead after training", percent),
            Column(f"explained_{name}", "explained", f"{label}: 1 - typical FVU of the trained SAE", _decimals(3)),
        ]
    return tuple(columns)


def render_page(
    config: Config, results: Results, layers: pl.DataFrame, saes: pl.DataFrame, spearman: pl.DataFrame
) -> str:
    """Render the whole page as HTML."""
    charts = make_charts(config, layers, saes)
    scripts = [_bundle(), (ASSETS / "page.js").read_text()]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        config=config,
        version=saelib.__version__,
        style=(ASSETS / "page.css").read_text(),
        scripts=scripts,
        policy=_policy(scripts),
        charts={name: asdict(chart) for name, chart in charts.items()},
        rows={"layers": layers.drop("key").to_dicts(), "saes": saes.drop("key").to_dicts()},
        layer_columns=LAYER_COLUMNS,
        sae_columns=SAE_COLUMNS,
        cost_columns=_cost_columns(),
        costs=_costs(results, layers),
        advice=ADVICE,
        tolerated=TOLERATED,
        domains=layers["domain"].unique(maintain_order=True).to_list(),
        wanted={"layers": len(wanted_layers(config)), "saes": len(wanted_saes(config))},
        counts=_counts(layers),
        thresholds=_gamma_at(config, (0.1, 0.5, 0.9)),
        correlations=_overall(spearman),
        distance=_distance_to_theory(layers),
        gaps=_grouped([(f"{gap.stage}: {gap.reason}", gap.place) for gap in results.gaps]),
        remarks=_grouped(_remarks(results)),
    )


@cache
def _bundle() -> str:
    """Bundle Vega, Vega-Lite (in the version that altair writes for) and vega-embed into one script."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)


def _policy(scripts: list[str]) -> str:
    """Write the content security policy: these scripts, styles inside the page, and nothing from elsewhere."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'"


def _counts(layers: pl.DataFrame) -> dict[str, int]:
    """Count the layers by recommendation, and those that keep more than 1 % dead under it."""
    counts = {name: layers.filter(pl.col("recommendation") == name).height for name in ADVICE}
    rate = {name: "dead_total" if name == "raw" else f"dead_total_{name}" for name in ADVICE}
    left = [
        layers.filter((pl.col("recommendation") == name) & (pl.col(rate[name]) > ACCEPTED)).height for name in ADVICE
    ]
    return counts | {"measured": sum(counts.values()), "still_dead": sum(left)}


def _costs(results: Results, layers: pl.DataFrame) -> list[dict[str, Any]]:
    """List the cost of each preprocessing on each layer that SAEs were trained on."""
    rows = []
    for layer in layers.to_dicts():
        trained = trained_saes(results, Place(layer["model"], layer["layer"]))
        if not trained:
            continue
        for name in ORDER:
            sae = trained.get(name)
            layer |= {
                f"born_dead_{name}": layer["dead_total" if name == "raw" else f"dead_total_{name}"],
                f"dead_{name}": sae and sae.dead,
                f"explained_{name}": sae and sae.explained,
            }
        rows.append(layer)
    return rows


def _gamma_at(config: Config, rates: tuple[float, ...]) -> list[tuple[float, float]]:
    """Find the severity at which theory expects each rate of all dead latents, for the suite's settings."""
    gamma = np.geomspace(0.01, 1000, 5000)
    options = config.init_death
    dead = theory.dead_total(gamma, options.d_sae, options.k, config.extraction.heldout_tokens)
    return [(rate, float(np.interp(rate, dead, gamma))) for rate in rates if dead[0] < rate < dead[-1]]


def _overall(spearman: pl.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """Look up the correlation of each gamma with each kind of death over all layers."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in spearman.filter(by="").to_dicts():
        found[row["x"]][row["y"]] = row
    return found


def _distance_to_theory(layers: pl.DataFrame) -> dict[str, float | None]:
    """Average the absolute difference between measured and predicted rates, for each prediction."""
    measured = {"dead_relu": "dead_relu", "dead_total": "dead_total", "dead_total_paper": "dead_total"}
    return {
        prediction: layers.select((pl.col(column) - pl.col(f"predicted_{prediction}")).abs().mean()).item()
        for prediction, column in measured.items()
    }


def _remarks(results: Results) -> list[tuple[str, Place | None]]:
    """Collect what a reader should know: warnings of the statistics and of training, and the choices of `auto`."""
    remarks: list[tuple[str, Place | None]] = []
    for place, stats in results.stats.items():
        remarks += [(text, place) for text in stats.warnings]
    for place, sweep in results.sweeps.items():
        remarks += [(text, place) for text in sweep.caveats]
        if sweep.preprocessing_reason:
            text = f"preprocessing chosen from the statistics: {sweep.options.preprocessing.kind}. "
            remarks.append((text + sweep.preprocessing_reason, place))
    return remarks


def _grouped(remarks: list[tuple[str, Place | None]]) -> list[tuple[str, list[str]]]:
    """List each remark once, with the places that it is about: 'gpt2 layer 1-3'."""
    layers: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for text, place in remarks:
        if place is None:
            layers[text]["every layer", ""] = []
        else:
            layers[text][place.model, place.variant].append(place.layer)
    return [(text, [where(*names, found) for names, found in places.items()]) for text, places in layers.items()]
