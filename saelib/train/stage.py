"""Stage `train`: one variant on one layer, from its store and statistics."""

import logging
from typing import TYPE_CHECKING

import torch

from saelib.choose_preprocessing import choose_preprocessing
from saelib.config import Config
from saelib.stats import load_arrays, load_stats
from saelib.store import open_store
from saelib.train import Subject, train_variant

if TYPE_CHECKING:
    from saelib.plan import Job

log = logging.getLogger(__name__)


def run(config: Config, job: "Job") -> None:
    """Train each target's variant at every learning rate of the config."""
    options = config.train
    # Bits depend on the number of threads, which must therefore not be the machine's affair.
    torch.set_num_threads(options.threads)
    for target in job.targets:
        store = open_store(config.store_path(target.model, target.layer))
        stats_path = config.stats_path(target.model, target.layer)
        variant, reason = options.variants[target.variant], None
        if variant.preprocessing.kind == "auto":
            choice = choose_preprocessing(load_stats(stats_path), options.d_sae, options.k, store.heldout.shape[0])
            variant, reason = variant.model_copy(update={"preprocessing": choice.preprocessing}), choice.reason
            log.info("%s: %s is chosen. %s", target.variant, choice.preprocessing.kind, reason)
        train_variant(
            store.train,
            store.heldout,
            load_arrays(stats_path),
            options,
            variant,
            output=target.output.parent,
            key=target.key,
            seed=config.seed,
            subject=Subject(target.model, target.layer, target.variant),
            reason=reason,
        )
