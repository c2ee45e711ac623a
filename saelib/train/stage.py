"""Stage `train`: one variant on one layer, from its store and statistics."""

from typing import TYPE_CHECKING

import torch

from saelib.config import Config
from saelib.stats import load_arrays
from saelib.store import open_store
from saelib.train import Subject, train_variant

if TYPE_CHECKING:
    from saelib.plan import Job


def run(config: Config, job: "Job") -> None:
    """Train each target's variant at every learning rate of the config."""
    # Bits depend on the number of threads, which must therefore not be the machine's affair.
    torch.set_num_threads(config.train.threads)
    for target in job.targets:
        store = open_store(config.store_path(target.model, target.layer))
        train_variant(
            store.train,
            store.heldout,
            load_arrays(config.stats_path(target.model, target.layer)),
            config.train,
            config.train.variants[target.variant],
            output=target.output.parent,
            key=target.key,
            seed=config.seed,
            subject=Subject(target.model, target.layer, target.variant),
        )
