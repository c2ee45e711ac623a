"""The evaluations of trained SAEs for the report: a row for each SAE, and a row for each comparison of two kinds."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from saelib.config import Config
from saelib.evaluation.layer_result import Comparison, LayerEvaluation, SAEEvaluation
from saelib.preprocessing.recommend import percent
from saelib.report.columns import SITE, Column, decimals
from saelib.report.results import Place
from saelib.report.tables import PLACE, typed_columns

Evaluations = Mapping[Place, tuple[LayerEvaluation, list[SAEEvaluation]]]

CORE = ("explained_variance", "cossim", "l2_ratio", "relative_reconstruction_bias", "l0", "freq_over_1_percent")
"""Core figures that the table has, over all tokens and over typical ones."""
EVALUATION = {
    **PLACE,
    "domain": pl.String,
    **typed_columns(SAEEvaluation, "sae", "kind", "seed", "trained", "d_in", "d_sae", "k", "tokens", "examples"),
    "mse": pl.Float64,
    **{f"{part}{name}": pl.Float64 for part in ("", "typical_") for name in CORE},
    "typical_tokens": pl.Int64,
    **typed_columns(SAEEvaluation, "token_fvu_median", "dead_relu", "dead_topk_only", "dead_total"),
    "dense_share": pl.Float64,
    "dense_in_components": pl.Float64,
    "twin_cosine_mean": pl.Float64,
    "mcc_between_seeds": pl.Float64,
    "concepts": pl.Int64,
    "concepts_covered": pl.Int64,
    "concept_f1": pl.Float64,
    "probe_auc": pl.Float64,
    "monosemanticity": pl.Float64,
    "monosemanticity_any_pair": pl.Float64,
    "ce_loss_score": pl.Float64,
    "ce_loss_with_ablation": pl.Float64,
    "ce_loss_with_sae": pl.Float64,
    "ce_loss_without_sae": pl.Float64,
    "key": pl.String,
}
"""Columns of `evaluation`; docs/evaluation.md defines them. `probe_auc` is that of the smallest k."""
DIFFERENCES = {**PLACE, "domain": pl.String, **typed_columns(Comparison, *(Comparison.__dataclass_fields__))}
"""Columns of `evaluation_differences`: a kind of SAE minus the reference, with a 95 % interval."""

SAE_COLUMNS = (
    Column("model", "model"),
    Column("layer", "layer", show=str),
    SITE,
    Column("sae", "SAE", "a variant and its seed, or a baseline that nobody trained"),
    Column("d_sae", "latents", show="{:,}".format),
    Column("l0", "L0", "latents that fire for a token, on average", decimals(1)),
    Column(
        "typical_explained_variance", "explained", "explained variance over tokens that are not massive", decimals(3)
    ),
    Column("dead_total", "all dead", "latents that never fire", percent),
    Column("dense_share", "dense", "latents that fire for more than 10 % of the tokens", percent),
    Column("mcc_between_seeds", "MCC of seeds", "mean |cosine| of matched living latents of two seeds", decimals(2)),
    Column(
        "twin_cosine_mean", "nearest twin", "cosine with the most similar latent of another trained SAE", decimals(2)
    ),
    Column("concepts_covered", "concepts", "annotated concepts that a latent detects with an F1 above 0.5", str),
    Column("concept_f1", "concept F1", "mean over concepts of the F1 of the best latent", decimals(2)),
    Column("probe_auc", "probe AUC", "k-sparse probes with the fewest latents", decimals(2)),
    Column("monosemanticity", "monosemanticity", "mean over latents; any two examples: see the table", decimals(3)),
    Column("ce_loss_score", "loss recovered", "1 if the model predicts as well with the reconstruction", decimals(3)),
)
DIFFERENCE_COLUMNS = (
    Column("model", "model"),
    Column("layer", "layer", show=str),
    SITE,
    Column("measure", "measure"),
    Column("kind", "kind"),
    Column("reference", "minus"),
    Column("difference", "difference", "mean over items and seeds", decimals(3)),
    Column("low", "from", "lower end of the 95 % interval", decimals(3)),
    Column("high", "to", "upper end of the 95 % interval", decimals(3)),
    Column("smallest_reliable", "smallest reliable", "a smaller difference could be chance", decimals(3)),
    Column("items", "items", "examples or concepts that both were scored on", str),
    Column("seeds", "seeds", show=str),
)

LOWER_IS_BETTER = ("example_fvu",)
VERDICT_COLUMNS = (
    Column("measure", "measure"),
    Column("kind", "kind"),
    Column("reference", "than"),
    Column("better", "better", "layers whose 95 % interval is on the better side of 0", str),
    Column("worse", "worse", "layers whose 95 % interval is on the worse side of 0", str),
    Column("undecided", "undecided", "layers whose 95 % interval holds 0", str),
    Column("better_at", "better at"),
    Column("worse_at", "worse at"),
)


def verdicts(differences: pl.DataFrame, layers: pl.DataFrame) -> list[dict[str, Any]]:
    """Counts the layers at which each kind is reliably better or worse than a reference, by measure.

    Layers are named by falling gamma, because the paper's claim is about those with a high one.
    """
    keys = ["model", "layer", "site"]
    sign = pl.when(pl.col("measure").is_in(LOWER_IS_BETTER)).then(-1).otherwise(1)
    side = pl.when(pl.col("low") > 0).then(1).when(pl.col("high") < 0).then(-1).otherwise(0) * sign
    site = pl.when(pl.col("site") == "residual").then(pl.lit("")).otherwise(pl.format(" {}", "site"))
    gamma = pl.col("gamma_unit").round(2)
    table = (
        differences.join(layers.select(*keys, "gamma_unit"), on=keys, how="left", maintain_order="left")
        .with_columns(
            side=side, place=pl.format("{} L{}{} (γ {})", "model", "layer", site, gamma.fill_null(float("nan")))
        )
        .sort("gamma_unit", descending=True, nulls_last=True, maintain_order=True)
    )
    places = {name: pl.col("place").filter(pl.col("side") == value) for name, value in (("better", 1), ("worse", -1))}
    counted = table.group_by("measure", "kind", "reference", maintain_order=True).agg(
        *(one.len().alias(name) for name, one in places.items()),
        (pl.col("side") == 0).sum().alias("undecided"),
        *(one.str.join(", ").alias(f"{name}_at") for name, one in places.items()),
    )
    order = {name: number for number, name in enumerate(differences["measure"].unique(maintain_order=True))}
    return sorted(counted.to_dicts(), key=lambda row: order[row["measure"]])


def evaluation_table(config: Config, found: Evaluations) -> pl.DataFrame:
    """Makes a row for each SAE of each evaluated layer."""
    rows = [_row(config, place, layer, sae) for place, (layer, saes) in found.items() for sae in saes]
    return pl.DataFrame(rows, schema=EVALUATION)


def differences_table(config: Config, found: Evaluations) -> pl.DataFrame:
    """Makes a row for each measure and kind of SAE of each evaluated layer."""
    rows = [
        _place(config, place) | vars(comparison)
        for place, (layer, _) in found.items()
        for comparison in layer.comparisons
    ]
    return pl.DataFrame([{name: row[name] for name in DIFFERENCES} for row in rows], schema=DIFFERENCES)


def evaluation_columns(table: pl.DataFrame) -> list[Column]:
    """Chooses the columns of the page's table in which some SAE has a value; the site only if it says something."""
    plain = (table["site"] == "residual").all()
    return [one for one in SAE_COLUMNS if table[one.name].count() and not (one.name == "site" and plain)]


def difference_columns(table: pl.DataFrame) -> list[Column]:
    """Chooses the columns of the page's table of differences."""
    plain = (table["site"] == "residual").all()
    return [one for one in DIFFERENCE_COLUMNS if not (one.name == "site" and plain)]


def _place(config: Config, place: Place) -> dict[str, Any]:
    columns = place.columns()
    del columns["variant"]
    return columns | {"domain": config.models[place.model].domain}


def _row(config: Config, place: Place, layer: LayerEvaluation, sae: SAEEvaluation) -> dict[str, Any]:
    row = _place(config, place) | {name: getattr(sae, name, None) for name in EVALUATION if name not in PLACE}
    row |= {"domain": config.models[place.model].domain, "key": layer.key, "mse": sae.all.mse}
    row |= {name: getattr(sae.all, name) for name in CORE} | {
        f"typical_{name}": getattr(sae.typical, name) for name in CORE
    }
    row |= {"typical_tokens": sae.typical.tokens, "dense_share": sae.dense.share}
    row["dense_in_components"] = sae.dense.in_components
    seeds = [pair.mcc for pair in layer.pairs if pair.same_kind and sae.sae in (pair.first, pair.second)]
    row["mcc_between_seeds"] = sum(seeds) / len(seeds) if seeds else None
    concepts, probing, mono, loss = sae.concepts, sae.probing, sae.monosemanticity, sae.ce_loss
    row |= {"concepts": None, "monosemanticity": None}
    if concepts is not None:
        row |= {"concepts": concepts.concepts, "concepts_covered": concepts.covered, "concept_f1": concepts.mean_f1}
    if probing is not None:
        row["probe_auc"] = probing.auc[0]
    if mono is not None:
        row |= {"monosemanticity": mono.mean, "monosemanticity_any_pair": mono.any_pair}
    if loss is not None:
        row |= {name: getattr(loss, name) for name in EVALUATION if name.startswith("ce_loss_")}
    return row
