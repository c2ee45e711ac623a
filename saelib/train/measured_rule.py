"""`auto`: the decision of `saelib diagnose` and the page, by death that is predicted from the layer's training rows."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from saelib.activations.even import EvenRows
from saelib.config import TrainConfig, VariantConfig
from saelib.config.preprocessings import PreprocessingName
from saelib.init_death.probed import DeathEstimate
from saelib.init_death.probes import probe_death
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.recommend import ORDER, MeasuredDeath, Recommendation, recommend

if TYPE_CHECKING:
    from saelib.stats import LayerStats
    from saelib.train.start import LayerData
    from saelib.train.sweep import Subject

MOST_TOKENS = 100_000
"""Training rows that are probed, evenly spread if there are more; `saelib diagnose` reads as many."""


def choose(
    data: "LayerData", stats: "LayerStats", config: TrainConfig, variant: VariantConfig, subject: "Subject", seed: int
) -> Recommendation:
    """Chooses the least invasive of raw, center_median and pca that leaves few latents dead (`recommend`).

    Death is predicted by the cap law for this training's d_sae, k and architecture. Whitening is no candidate if there
    are too few rows for a covariance, or if the activations vary in one direction alone.
    """
    tokens, d_in = data.train.shape
    names: list[PreprocessingName] = [name for name in ORDER if name != "pca" or tokens > d_in]
    fitted = {name: make_preprocessing(name, data.statistics, tokens=tokens, name=str(subject)) for name in names}
    kind = variant.trained_architecture
    assert kind != "abs_topk"  # the config refuses it: its death is not predicted
    rows = EvenRows(data.train, MOST_TOKENS)
    candidates = {name: one for name, one in fitted.items() if one.d_out >= 2}
    probed = probe_death(rows, candidates, seed=seed, threads=config.threads)
    found = recommend({name: _measured(of.dead_for(kind, config.d_sae, config.k)) for name, of in probed.items()})
    assert found is not None
    basis = f"Predicted for d_sae = {config.d_sae:,} and k = {config.k} from {rows.shape[0]:,} training tokens."
    return replace(found, reason=f"{basis} {found.reason}")


def _measured(death: DeathEstimate) -> MeasuredDeath:
    """The prediction for one dictionary: its standard error by the probes and by the latents of the dictionary."""
    return MeasuredDeath(death.dead_total, math.hypot(death.se_total, death.sd_total), seeds=1)
