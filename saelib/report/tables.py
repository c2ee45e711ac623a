"""The tables: one row for each layer, one for each trained SAE, one for each correlation."""

from collections.abc import Iterable
from typing import Any

import polars as pl

from saelib.config import Config, InitDeathConfig
from saelib.preprocessing.recommend import MeasuredDeath, TrainedSAE, recommend
from saelib.report.results import Place, Results, wanted_layers, wanted_saes
from saelib.report.schema import InitDeath, LayerStats
from saelib.stats.correlation import spearman_table

STATISTICS = (
    "gamma",
    "gamma_raw",
    "gamma_unit",
    "effective_rank",
    "effective_rank_fraction",
    "excess_kurtosis",
    "norm_ratio",
)

SAES = {
    "model": pl.String,
    "layer": pl.Int64,
    "domain": pl.String,
    "variant": pl.String,
    "preprocessing": pl.String,
    "preprocessing_reason": pl.String,
    "architecture": pl.String,
    "dead_latents": pl.String,
    "d_in": pl.Int64,
    "d_sae": pl.Int64,
    "k": pl.Int64,
    "learning_rate": pl.Float64,
    "learning_rate_at_end": pl.String,
    "steps": pl.Int64,
    "mse": pl.Float64,
    "normalized_mse": pl.Float64,
    "variance_explained": pl.Float64,
    "token_fvu_median": pl.Float64,
    "token_fvu_mean": pl.Float64,
    "few_tokens_decide": pl.String,
    "l0": pl.Float64,
    "dead_relu": pl.Float64,
    "dead_topk_only": pl.Float64,
    "dead_total": pl.Float64,
    "backend": pl.String,
    "key": pl.String,
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
"""Columns of `spearman`. Intervals at 95 %: `ci_low` and `ci_high` over whole models, of which there are `n_clusters`;
`ci_low_rows` and `ci_high_rows` as if layers of one model were independent, which makes them far too narrow."""


def _layers_schema(config: Config) -> dict[str, Any]:
    """Columns of `layers`. Rates are fractions; `dead_*` without a suffix are of raw activations, means over seeds.

    `predicted_*` are of `gamma_unit`; `predicted_dead_total_paper` is by the paper's form, of its `gamma`.
    A column for each preprocessing of the default config, and for each that this one adds.
    """
    measured = dict.fromkeys((*InitDeathConfig().preprocessings, *config.init_death.preprocessings))
    return {
        "model": pl.String,
        "layer": pl.Int64,
        "domain": pl.String,
        "d_in": pl.Int64,
        "tokens": pl.Int64,
        **dict.fromkeys(STATISTICS, pl.Float64),
        "predicted_dead_relu": pl.Float64,
        "predicted_dead_total": pl.Float64,
        "predicted_dead_total_paper": pl.Float64,
        "dead_relu": pl.Float64,
        "dead_total": pl.Float64,
        "dead_total_sd": pl.Float64,
        **{f"dead_total_{name}": pl.Float64 for name in measured if name != "raw"},
        "recommendation": pl.String,
        "recommendation_basis": pl.String,
        "recommendation_reason": pl.String,
        "key": pl.String,
    }


def layers_table(config: Config, results: Results) -> pl.DataFrame:
    """A row for each layer that has statistics, death at initialization or both, in the order of the config."""
    schema = _layers_schema(config)
    return pl.DataFrame([_pick(row, schema) for row in _layer_rows(config, results)], schema=schema)


def saes_table(config: Config, results: Results) -> pl.DataFrame:
    """A row for each trained SAE."""
    rows = []
    for place in wanted_saes(config):
        sweep = results.sweeps.get(place)
        if sweep is not None and sweep.best is not None:
            best = sweep.best
            described = place._asdict() | {
                "domain": config.models[place.model].domain,
                "learning_rate_at_end": sweep.learning_rate_at_end,
                "few_tokens_decide": None if best.token_fvu_median is None else "yes" if best.few_tokens else "no",
            }
            kinds = {name: option["kind"] for name, option in sweep.options.model_dump().items()}
            rows.append(_pick(best.model_dump() | sweep.model_dump() | kinds | described, SAES))
    return pl.DataFrame(rows, schema=SAES)


def spearman_rows(layers: pl.DataFrame) -> pl.DataFrame:
    """How well each form of gamma orders the layers by their death: overall, by domain, by model."""
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
        row = {"model": place.model, "layer": place.layer, "domain": config.models[place.model].domain}
        yield row | _of_stats(stats) | _of_death(death, trained_saes(results, place)) | _of_theory(results, place)


def _of_stats(stats: LayerStats | None) -> dict[str, Any]:
    return stats.model_dump() if stats else {}


def _of_theory(results: Results, place: Place) -> dict[str, Any]:
    row = results.predictions.get(place)
    if row is None:
        return {}
    return {
        "predicted_dead_relu": row.dead_relu,
        "predicted_dead_total": row.dead_total,
        "predicted_dead_total_paper": row.dead_total_paper,
    }


def trained_saes(results: Results, layer: Place) -> dict[str, TrainedSAE]:
    """By preprocessing, the SAE of this layer that explains the most of the typical token's variance."""
    found: dict[str, TrainedSAE] = {}
    for place, sweep in results.sweeps.items():
        best, name = sweep.best, sweep.options.preprocessing.kind
        if (place.model, place.layer) != (layer.model, layer.layer) or best is None:
            continue
        if best.token_fvu_median is None or best.dead_total is None:
            continue
        sae = TrainedSAE(1 - best.token_fvu_median, best.dead_total)
        if name not in found or sae.explained > found[name].explained:
            found[name] = sae
    return found


def _of_death(death: InitDeath | None, trained: dict[str, TrainedSAE]) -> dict[str, Any]:
    if death is None:
        return {}
    measured = {name: rates.dead_total for name, rates in death.preprocessings.items()}
    deaths = {n: MeasuredDeath(rate.mean, rate.sd, len(rate.per_seed)) for n, rate in measured.items()}
    found = recommend(deaths, trained)
    row: dict[str, Any] = {f"dead_total_{name}": rate.mean for name, rate in measured.items()}
    if "raw" in death.preprocessings:
        raw = death.preprocessings["raw"]
        row |= {"dead_relu": raw.dead_relu.mean, "dead_total": raw.dead_total.mean, "dead_total_sd": raw.dead_total.sd}
    if found:
        row |= {"recommendation": found.preprocessing, "recommendation_reason": found.reason}
        row |= {"recommendation_basis": "death and reconstruction" if trained else "death"}
    return row | {"key": death.key}


def _pick(row: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in schema}
