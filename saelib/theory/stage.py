"""Stage `theory`: what the closed forms predict for every layer of the suite."""

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from saelib.config import Config
from saelib.files import write_result
from saelib.stats import load_stats
from saelib.theory import predict

if TYPE_CHECKING:
    from saelib.plan import Job

log = logging.getLogger(__name__)


def run(config: Config, job: "Job") -> None:
    """Predict from each layer's gamma, for the dictionary and the tokens that stage `init_death` measures with."""
    write_predictions(config, job.targets[0].key)


def write_predictions(config: Config, key: str, partly: bool = False) -> None:
    """Predict for every layer of the suite, or (`partly`) for those that have statistics."""
    d_sae, k, tokens = config.init_death.d_sae, config.init_death.k, config.extraction.heldout_tokens
    rows = []
    for model, options in config.models.items():
        for layer in options.layers:
            path = config.stats_path(model, layer)
            if partly and not path.exists():
                continue
            gamma = load_stats(path).gamma
            if gamma is None:
                log.warning("%s layer %d: gamma is not defined, so nothing is predicted", model, layer)
                continue
            prediction = asdict(predict(gamma, d_sae, k, tokens))
            rows.append({"model": model, "layer": layer, "gamma": gamma, "d_sae": d_sae, "k": k, "tokens": tokens})
            rows[-1] |= prediction
    write_result(config.theory_path(), key, {"rows": rows})
    log.info("%d layers", len(rows))
