"""Stage `init_death`: counts the latents born dead in a block of layers, and predicts them for other sizes."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from saelib.activations.rows import Rows
from saelib.config import Config, InitDeathConfig
from saelib.config.sites import Layer
from saelib.devices.cards import job_device
from saelib.init_death.landscape import Landscape, predict_landscape
from saelib.init_death.measure import measure
from saelib.init_death.probes import probe_death
from saelib.init_death.result import save_result
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.recommend import ORDER
from saelib.preprocessing.transform import Preprocessing
from saelib.progress import progress
from saelib.stats import load_arrays
from saelib.store import open_store

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job
    from saelib.store.kept import KeptStore

log = logging.getLogger(__name__)


def run(config: Config, job: "Job", kept: "Mapping[Layer, KeptStore] | None" = None) -> None:
    """Count the dead latents on each target's layer, for every preprocessing and seed of the config.

    Death for other sizes of the SAE is predicted on the same tokens, under the preprocessings that are recommended. The
    tokens come from the layer's store, or from `kept` if an extraction has left them on a GPU.
    """
    options = config.init_death
    seeds = [config.seed + offset for offset in range(options.seeds)]
    device = job_device(options.device, "init_death.device", float64=True)  # Apple's GPUs are left out
    with progress(f"init_death {job.name}", len(job.targets), "layers", log) as advance:
        for target in job.targets:
            store = (kept or {}).get(target.layer) or open_store(config.store_path(target.model, target.layer))
            arrays = load_arrays(config.stats_path(target.model, target.layer))
            fitted = {"tokens": store.train.shape[0], "name": f"{target.model} layer {target.layer}"}
            preprocessings = {name: make_preprocessing(name, arrays, **fitted) for name in options.preprocessings}
            result = measure(store.heldout, preprocessings, options.d_sae, options.k, seeds, threads=1, device=device)
            landscape = _landscape(store.heldout, preprocessings, options, config.seed + options.seeds)
            save_result(replace(result, landscape=landscape), target.output, target.key)
            advance(1, note=f"{target.model} layer {target.layer}")


def _landscape(
    rows: Rows, preprocessings: Mapping[str, Preprocessing], options: InitDeathConfig, seed: int
) -> Landscape | None:
    """Predict death with probes that are no latents of the counted dictionaries; None if there is nothing to predict.

    A preprocessing that leaves fewer than 2 dimensions has no directions to probe.
    """
    probed = {name: p for name, p in preprocessings.items() if name in ORDER and p.d_out >= 2}
    if not probed:
        return None
    return predict_landscape(probe_death(rows, probed, seed=seed), options.d_sae, options.k)
