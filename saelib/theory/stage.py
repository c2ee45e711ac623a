"""Stage `theory`: writes the predictions of the closed forms for every layer of the suite."""

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from saelib.config import Config
from saelib.config.sites import number_of, site_of
from saelib.stats import load_stats
from saelib.theory.closed_forms import predict
from saelib.theory.result import LayerPrediction, save_predictions

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job

log = logging.getLogger(__name__)


def run(config: Config, job: "Job") -> None:
    """Predicts from each layer's `gamma_unit`, for the number of latents and tokens in stage `init_death`."""
    write_predictions(config, job.targets[0].key)


def write_predictions(config: Config, key: str, partly: bool = False) -> None:
    """Writes predictions for every layer of the suite or, with `partly`, for those that have statistics.

    `dead_total_paper` is the paper's prediction: the paper's form, evaluated at the paper's gamma (after LayerNorm).
    """
    d_sae, k, tokens = config.init_death.d_sae, config.init_death.k, config.extraction.heldout_tokens
    rows = []
    for model, options in config.models.items():
        for layer in options.places:
            path = config.stats_path(model, layer)
            if partly and not path.exists():
                continue
            stats = load_stats(path)
            if stats.gamma_unit is None:
                log.warning("%s layer %s: gamma_unit is not defined, so nothing is predicted", model, layer)
                continue
            figures = asdict(predict(stats.gamma_unit, d_sae, k, tokens))
            paper = None if stats.gamma is None else predict(stats.gamma, d_sae, k, tokens).dead_total_paper
            figures |= {"dead_total_paper": paper, "site": site_of(layer)}
            numbers = (number_of(layer), stats.gamma_unit, stats.gamma, d_sae, k, tokens)
            rows.append(LayerPrediction(model, *numbers, **figures))
    save_predictions(rows, config.theory_path(), key)
    log.info("predicted %d layers", len(rows))
