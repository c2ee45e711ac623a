"""The columns of the page's tables, and how their values are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from saelib.preprocessing.recommend import ORDER, percent
from saelib.report.palette import PREPROCESSINGS
from saelib.report.remedies import ratio_columns


@dataclass(frozen=True)
class Column:
    """A column of a table in the page."""

    name: str
    title: str
    help: str = ""
    show: Callable[[Any], str] | None = None
    """Converts a number to text; None: the column holds text."""


def decimals(digits: int) -> Callable[[float], str]:
    """Makes a function that writes a number with this many decimals."""
    return lambda value: f"{value:.{digits}f}"


SITE = Column("site", "site", "the residual stream, or the output of the block's attention or MLP")
LAYER_COLUMNS = (
    Column("model", "model"),
    Column("layer", "layer", show=str),
    SITE,
    Column("domain", "domain"),
    Column("recommendation", "recommendation"),
    Column("gamma_unit", "γ", "outlier severity of the tokens scaled to length 1: it predicts death", decimals(2)),
    Column("gamma", "γ LN", "the same after LayerNorm of each token, as in the paper", decimals(2)),
    Column("gamma_raw", "γ raw", "the same on the tokens as they are", decimals(2)),
    Column("effective_rank", "eff. rank", "directions in which the activations vary", decimals(0)),
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
    SITE,
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
        decimals(3),
    ),
    Column("variance_explained", "variance explained", "over all tokens together; 1 is perfect", decimals(3)),
    Column(
        "few_tokens_decide",
        "few tokens decide?",
        "whether the two disagree (docs/training.md); if so, go by the typical FVU",
    ),
    Column("l0", "L0", "latents that fire per token, on average", decimals(1)),
    Column("dead_relu", "ReLU-dead", "never positive", percent),
    Column("dead_topk_only", "TopK-dead", "positive somewhere, never selected", percent),
    Column("dead_total", "all dead", "never selected", percent),
    Column("files", "files", "the sweep and its weights, next to this page"),
)
COMPARED_COLUMNS = (
    Column("model", "model"),
    Column("layer", "layer", show=str),
    Column("gamma", "γ here", "outlier severity after LayerNorm, as the paper measures it", decimals(2)),
    Column("gamma_there", "γ there", "the same in the other table", decimals(2)),
    Column("effective_rank", "rank here", "effective rank of the covariance after LayerNorm", decimals(0)),
    Column("effective_rank_there", "rank there", "the same in the other table", decimals(0)),
    Column("dead_total", "all dead here", "latents that are never selected, without preprocessing", percent),
    Column("dead_total_there", "all dead there", "the same in the other table", percent),
    Column("dead_total_center_median", "centered here", "all dead after centering on the geometric median", percent),
    Column("dead_total_center_median_there", "centered there", "the same in the other table", percent),
)
OPTIONAL = ("preprocessing", "architecture", "dead_latents")
"""Columns that are left out if all their cells are the same."""


def telling(columns: Sequence[Column], rows: pl.DataFrame) -> list[Column]:
    """Chooses the columns that say something about these rows: the site only if one is not the residual stream."""
    left_out = {name for name in OPTIONAL if name in rows.columns and rows[name].n_unique() <= 1}
    if (rows["site"] == "residual").all():
        left_out.add("site")
    return [column for column in columns if column.name not in left_out]


def cost_columns() -> tuple[Column, ...]:
    """Makes columns for each candidate of the recommendation: latents left dead, and what its SAE explains."""
    columns = [*LAYER_COLUMNS[:3], Column("recommendation", "recommendation")]
    for name in ORDER:
        label = PREPROCESSINGS[name][0]
        columns += [
            Column(f"born_dead_{name}", f"{label}: born dead", "all dead at initialization", percent),
            Column(f"dead_{name}", "dead, trained", f"{label}: all dead after training", percent),
            Column(f"explained_{name}", "explained", f"{label}: 1 - typical FVU of the trained SAE", decimals(3)),
        ]
    return tuple(columns)


def remedy_columns(names: Sequence[str]) -> list[Column]:
    """Returns the columns of the table that compares remedies, of those that it has."""
    shown = [
        Column("data", "data"),
        Column("architecture", "architecture"),
        Column("variant", "remedy"),
        Column("verdict", "verdict", "against the last variant of compare_with"),
        Column("learning_rate", "learning rate", "the best of those tried", lambda value: f"{value:g}"),
        Column("born_dead", "born dead", "all dead before training", percent),
        Column("dead_relu", "ReLU-dead", "never positive, after training", percent),
        Column("dead_total", "all dead", "never selected, after training", percent),
        Column("fvu", "FVU", "fraction of variance unexplained, in the model's own activations", decimals(3)),
        Column("token_fvu", "typical FVU", "the same of a typical token: the median over tokens", decimals(3)),
        *(
            Column(name, _ratio_title(name), "errors of the two, as a ratio", decimals(2))
            for name in ratio_columns(names)
        ),
        Column("l0", "L0", "active latents per token", decimals(1)),
        Column("f1", "F1", "of latents as detectors of the true features", decimals(3)),
        Column("mcc", "MCC", "of decoder directions and true features, matched one-to-one", decimals(3)),
    ]
    return [column for column in shown if column.name in names]


def _ratio_title(name: str) -> str:
    """Turns 'token_fvu_over_center_median' into 'typical FVU / center_median'."""
    error, _, other = name.partition("_over_")
    return f"{'typical FVU' if error == 'token_fvu' else 'FVU'} / {other}"
