"""The page's first statements: how many layers need which preprocessing, and how well theory predicts death."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from saelib.config import Config
from saelib.preprocessing.recommend import ACCEPTED, ORDER
from saelib.report.palette import ADVICE
from saelib.report.results import Results, place_of
from saelib.report.tables import rate_column, trained_saes
from saelib.theory import closed_forms


def count_advice(layers: pl.DataFrame) -> dict[str, int]:
    """Counts the layers by recommendation, and all that have one as `measured`."""
    counts = {name: layers.filter(pl.col("recommendation") == name).height for name in ADVICE}
    return counts | {"measured": sum(counts.values())}


def still_dead(layers: pl.DataFrame) -> list[dict[str, Any]]:
    """Lists the layers that keep more than 1 % dead under their recommendation, the worst first, with that rate."""
    under = pl.coalesce(pl.when(recommendation=name).then(pl.col(rate_column(name))) for name in ADVICE)
    return layers.with_columns(left=under).filter(pl.col("left") > ACCEPTED).sort("left", descending=True).to_dicts()


def costs(results: Results, layers: pl.DataFrame) -> list[dict[str, Any]]:
    """Lists the cost of each preprocessing on each layer that SAEs were trained on."""
    rows = []
    for layer in layers.to_dicts():
        trained = trained_saes(results, place_of(layer))
        if not trained:
            continue
        for name in ORDER:
            sae = trained.get(name)
            layer |= {
                f"born_dead_{name}": layer[rate_column(name)],
                f"dead_{name}": sae and sae.dead,
                f"explained_{name}": sae and sae.explained,
            }
        rows.append(layer)
    return rows


def gamma_at(config: Config, rates: tuple[float, ...]) -> list[tuple[float, float]]:
    """Finds the severity at which theory expects each rate of all dead latents, for the suite's settings."""
    gamma = np.geomspace(0.01, 1000, 5000)
    options = config.init_death
    dead = closed_forms.dead_total(gamma, options.d_sae, options.k, config.extraction.heldout_tokens)
    return [(rate, float(np.interp(rate, dead, gamma))) for rate in rates if dead[0] < rate < dead[-1]]


@dataclass(frozen=True)
class Agreement:
    """Agreement of severity and theory with measured death, over all layers or those of one domain or model."""

    by: str
    """'', 'domain' or 'model'."""
    name: str
    correlations: dict[str, dict[str, dict[str, Any]]]
    """gamma -> kind of death -> row of `spearman`."""
    distances: dict[str, float | None]
    """Mean absolute difference of measured and predicted rates, for each prediction."""


def agreements(layers: pl.DataFrame, spearman: pl.DataFrame) -> list[Agreement]:
    """Lists the agreement over all layers, for each domain, and for each model."""
    found = []
    for by in ("", "domain", "model"):
        names = layers[by].unique(maintain_order=True).to_list() if by else [""]
        for name in names:
            chosen = layers.filter(pl.col(by) == name) if by else layers
            rows = spearman.filter((pl.col("by") == by) & (pl.lit(not by) | (pl.col("scope") == name)))
            found.append(Agreement(by, name, _by_kind(rows), _distances(chosen)))
    return found


def _by_kind(rows: pl.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows.to_dicts():
        found[row["x"]][row["y"]] = row
    return found


def _distances(layers: pl.DataFrame) -> dict[str, float | None]:
    measured = {"dead_relu": "dead_relu", "dead_total": "dead_total", "dead_total_paper": "dead_total"}
    return {
        prediction: layers.select((pl.col(column) - pl.col(f"predicted_{prediction}")).abs().mean()).item()
        for prediction, column in measured.items()
    }
