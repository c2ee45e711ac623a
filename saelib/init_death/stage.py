"""Stage `init_death`: counts the latents born dead in a block of layers, on held-out tokens."""

import logging
from typing import TYPE_CHECKING

from saelib.config import Config
from saelib.init_death import measure, save_result
from saelib.preprocessing.fit import make_preprocessing
from saelib.progress import progress
from saelib.stats import load_arrays
from saelib.store import open_store

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job

log = logging.getLogger(__name__)


def run(config: Config, job: "Job") -> None:
    """Count the dead latents on each target's layer, for every preprocessing and seed of the config."""
    options = config.init_death
    seeds = [config.seed + offset for offset in range(options.seeds)]
    with progress(f"init_death {job.name}", len(job.targets), "layers", log) as advance:
        for target in job.targets:
            store = open_store(config.store_path(target.model, target.layer))
            arrays = load_arrays(config.stats_path(target.model, target.layer))
            fitted = {"tokens": store.train.shape[0], "name": f"{target.model} layer {target.layer}"}
            preprocessings = {name: make_preprocessing(name, arrays, **fitted) for name in options.preprocessings}
            result = measure(store.heldout, preprocessings, options.d_sae, options.k, seeds, threads=1)
            save_result(result, target.output, target.key)
            advance(1, note=f"{target.model} layer {target.layer}")
