"""The tables: one row for each layer, trained SAE and correlation, and predicted death over sizes of the SAE."""

from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

import polars as pl

from saelib.config import Config, InitDeathConfig
from saelib.init_death.result import InitDeath
from saelib.preprocessing.recommend import MeasuredDeath, TrainedSAE, recommend
from saelib.report.results import Place, Results, wanted_layers, wanted_saes
from saelib.stats.correlation import spearman_table
from saelib.stats.layer_stats import LayerStats
from saelib.theory.result import LayerPrediction
from saelib.train.result import MeasuredRun, SweepResult

_TYPES = {bool: pl.Boolean, int: pl.Int64, float: pl.Float64, str: pl.String}

OPTIONS = ("preprocessing", "architecture", "dead_latents")
"""The options of a variant whose kind has a column."""


def typed_columns(kind: type, *names: str) -> dict[str, Any]:
    """Columns for fields of a stage's result, with the types that they have there."""
    hints = get_type_hints(kind)
    return {name: next(_TYPES[one] for one in get_args(hints[name]) or (hints[name],)) for name in names}


STATISTICS = typed_columns(
    LayerStats,
    *(
        "gamma",
        "gamma_raw",
        "gamma_unit",
        "effective_rank",
        "effective_rank_fraction",
        "excess_kurtosis",
        "norm_ratio",
        "massive_share",
    ),
)
PREDICTIONS = typed_columns(LayerPrediction, "dead_relu", "dead_total", "dead_total_paper")

PLACE = {"model": pl.String, "layer": pl.Int64, "site": pl.String}
"""Columns that name a layer and its site."""

SAES = {
    **PLACE,
    "domain": pl.String,
    **typed_columns(Place, "variant"),
    "preprocessing": pl.String,
    **typed_columns(SweepResult, "preprocessing_reason"),
    "architecture": pl.String,
    "dead_latents": pl.String,
    **typed_columns(SweepResult, "d_in", "d_sae", "k"),
    **typed_columns(MeasuredRun, "learning_rate"),
    "learning_rate_at_end": pl.String,
    **typed_columns(SweepResult, "steps"),
    **typed_columns(MeasuredRun, "mse", "normalized_mse", "variance_explained", "token_fvu_median", "token_fvu_mean"),
    "few_tokens_decide": pl.String,
    **typed_columns(MeasuredRun, "l0", "dead_relu", "dead_topk_only", "dead_total"),
    **typed_columns(SweepResult, "backend", "key"),
}
"""Columns of `saes`: the run at the best learning rate of each sweep."""

SPEARMAN = {
    "scope": pl.String,
    "by": pl.String,
    "x": pl.String,
    "y": pl.String,
    "n": pl.Int64,
    "n_left_out": pl.Int64,
    "rho": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "ci_over": pl.String,
    "n_clusters": pl.Int64,
    "ci_low_rows": pl.Float64,
    "ci_high_rows": pl.Float64,
    "reason": pl.String,
}
"""Columns of `spearman`. The 95 % interval from `ci_low` to `ci_high` is over whole models, of which there are
`n_clusters`; that from `ci_low_rows` to `ci_high_rows` takes the layers of one model for independent, and is far too
narrow."""

LANDSCAPE = {
    **PLACE,
    "preprocessing": pl.String,
    **typed_columns(InitDeath, "d_sae", "k"),
    "dead_total": pl.Float64,
    "standard_error": pl.Float64,
}
"""Columns of `landscape`: the cap law's prediction for each d_sae and k, and its standard error by the number of
probes."""


def _layers_schema(config: Config) -> dict[str, Any]:
    """Lists the columns of `layers`, with their types.

    Rates are fractions, and means over seeds; `dead_*` without a suffix is measured on raw activations. `predicted_*`
    follows from `gamma_unit`, but `predicted_dead_total_paper` from `gamma`, by the paper's form. Each preprocessing of
    the default config has a column, and so has each that this config adds.
    """
    measured = dict.fromkeys((*InitDeathConfig().preprocessings, *config.init_death.preprocessings))
    return {
        **PLACE,
        "domain": pl.String,
        **typed_columns(LayerStats, "d_in", "tokens"),
        **STATISTICS,
        **{f"predicted_{name}": kind for name, kind in PREDICTIONS.items()},
        "dead_relu": pl.Float64,
        "dead_total": pl.Float64,
        "dead_total_sd": pl.Float64,
        **{rate_column(name): pl.Float64 for name in measured},
        "recommendation": pl.String,
        "recommendation_basis": pl.String,
        "recommendation_reason": pl.String,
        "key": pl.String,
    }


def rate_column(preprocessing: str) -> str:
    """Names the column of `layers` with all dead latents under a preprocessing."""
    return "dead_total" if preprocessing == "raw" else f"dead_total_{preprocessing}"


def layers_table(config: Config, results: Results) -> pl.DataFrame:
    """Makes a row for each layer that has statistics, death at initialization or both, in the order of the config."""
    schema = _layers_schema(config)
    return pl.DataFrame([_pick(row, schema) for row in _layer_rows(config, results)], schema=schema)


def saes_table(config: Config, results: Results) -> pl.DataFrame:
    """Makes a row for each trained SAE."""
    rows = []
    for place in wanted_saes(config):
        sweep = results.sweeps.get(place)
        if sweep is not None and sweep.best is not None:
            best = sweep.best
            options = {name: getattr(sweep.options, name).kind for name in OPTIONS}
            described = place.columns() | {
                "domain": config.models[place.model].domain,
                "learning_rate_at_end": sweep.learning_rate_at_end,
                "few_tokens_decide": "yes" if best.few_tokens else "no",
            }
            rows.append(_pick(vars(best) | vars(sweep) | options | described, SAES))
    return pl.DataFrame(rows, schema=SAES)


def landscape_table(config: Config, results: Results) -> pl.DataFrame:
    """Makes a row for each layer, preprocessing, d_sae and k for which death at initialization was predicted."""
    places = [place for place in wanted_layers(config) if place in results.init_death]
    rows = [
        place.columns()
        | {"preprocessing": name, "d_sae": d_sae, "k": k}
        | {"dead_total": grid[row][column], "standard_error": found.standard_error[name][row][column]}
        for place in places
        if (found := results.init_death[place].landscape)
        for name, grid in found.dead_total.items()
        for row, d_sae in enumerate(found.d_sae)
        for column, k in enumerate(found.k)
        if k <= d_sae
    ]
    return pl.DataFrame([_pick(row, LANDSCAPE) for row in rows], schema=LANDSCAPE)


def spearman_rows(layers: pl.DataFrame) -> pl.DataFrame:
    """Correlate each form of gamma with each death: over all layers, by domain, and by model."""
    rows: list[dict[str, Any]] = []
    for x in ("gamma", "gamma_raw", "gamma_unit"):
        for y in ("dead_total", "dead_relu"):
            rows += spearman_table(layers, x, y, ["domain", "model"])
    return pl.DataFrame(rows, schema=SPEARMAN)


def _layer_rows(config: Config, results: Results) -> Iterable[dict[str, Any]]:
    for place in wanted_layers(config):
        stats, death = results.stats.get(place), results.init_death.get(place)
        if stats is None and death is None:
            continue
        row = place.columns() | {"domain": config.models[place.model].domain}
        row |= vars(stats) if stats else {}
        yield row | _death_cells(death, trained_saes(results, place)) | _predicted_cells(results, place)


def _predicted_cells(results: Results, place: Place) -> dict[str, Any]:
    found = results.predictions.get(place)
    return {f"predicted_{name}": getattr(found, name) for name in PREDICTIONS} if found else {}


def trained_saes(results: Results, layer: Place) -> dict[str, TrainedSAE]:
    """Finds, for each preprocessing, the SAE of this layer that explains most of the typical token's variance."""
    found: dict[str, TrainedSAE] = {}
    for place, sweep in results.sweeps.items():
        best, name = sweep.best, sweep.options.preprocessing.kind
        if (place.model, place.layer) != (layer.model, layer.layer) or best is None:
            continue
        sae = TrainedSAE(1 - best.token_fvu_median, best.dead_total)
        if name not in found or sae.explained > found[name].explained:
            found[name] = sae
    return found


def _death_cells(death: InitDeath | None, trained: dict[str, TrainedSAE]) -> dict[str, Any]:
    if death is None:
        return {}
    measured = {name: rates.dead_total for name, rates in death.preprocessings.items()}
    deaths = {n: MeasuredDeath(rate.mean, rate.sd, len(rate.per_seed)) for n, rate in measured.items()}
    found = recommend(deaths, trained)
    row: dict[str, Any] = {rate_column(name): rate.mean for name, rate in measured.items()}
    if "raw" in death.preprocessings:
        raw = death.preprocessings["raw"]
        row |= {"dead_relu": raw.dead_relu.mean, "dead_total_sd": raw.dead_total.sd}
    if found:
        row |= {"recommendation": found.preprocessing, "recommendation_reason": found.reason}
        row |= {"recommendation_basis": "death and reconstruction" if trained else "death"}
    return row | {"key": death.key}


def _pick(row: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in schema}
