"""Extracts the layers of a model and, on a GPU, computes their statistics and deaths from the rows that stay there.

These results have the keys and the bits that jobs of their own would give them, and those jobs find them fresh. What is
not computed here, for whatever reason, is left to those jobs, which read the stores.
"""

import gc
import logging
from functools import partial
from typing import TYPE_CHECKING

from saelib.config import Config
from saelib.config.sites import names
from saelib.devices.cards import job_device
from saelib.devices.memory import DeviceShortage, explained_shortage, gigabytes
from saelib.extract import stage as extract
from saelib.pipeline.jobs import run_stale
from saelib.pipeline.plan import Job
from saelib.pipeline.resources import stages_along
from saelib.pipeline.targets import Target

if TYPE_CHECKING:
    from saelib.store.kept import KeptStore, KeptStores

log = logging.getLogger(__name__)


def run(config: Config, job: Job) -> None:
    """Writes the stores of an extraction's targets and, on a GPU, publishes the stale results of `job.along`."""
    device, stages = _device_and_stages(config, job)
    kept = _extract_and_keep(config, job, device) if "stats" in stages else None
    if kept is None:
        extract.run(config, job)
        return
    for target in job.targets:
        rows = kept.take(target.layer)
        if rows is not None:
            _compute_along(config, job, stages, target, rows)


def _device_and_stages(config: Config, job: Job) -> tuple[str, list[str]]:
    """Returns the device of the extraction, and the stages of `job.along` that it computes there; none on a CPU."""
    model = config.models[job.targets[0].model]
    stages = stages_along(config, model) if job.along else []
    if not stages:
        return "cpu", []
    spread = getattr(model.source, "device_map", None) is not None
    device = job_device(config.extraction.device, "extraction.device", spread=spread)
    if device in ("cpu", "mps"):
        return device, []
    return device, [stage for stage in stages if getattr(config, stage).device in ("auto", "cuda", device)]


def _extract_and_keep(config: Config, job: Job, device: str) -> "KeptStores | None":
    """Writes the stores and keeps rows; returns None, with nothing written, if that leaves the model too little memory.

    Raises:
        UserError: as the stage `extract` does.
    """
    from saelib.store.kept import KeptStores

    kept, name = KeptStores(device), job.targets[0].model
    try:
        with explained_shortage(lambda usable: f"{name}: its rows fill the {gigabytes(usable)} of the GPU"):
            extract.run(config, job, kept)
        _log_kept(job, kept)
        return kept
    except DeviceShortage as error:
        if not kept.room.taken:
            raise
        held = gigabytes(kept.room.taken)
        log.warning("%s; %s of it held rows of its layers: it runs again, and keeps none", error, held)
    kept.clear()
    gc.collect()  # a model may refer to itself
    return None


def _log_kept(job: Job, kept: "KeptStores") -> None:
    name, device, room = job.targets[0].model, kept.device, kept.room
    others = [target.layer for target in job.targets if target.layer not in kept.layers]
    if kept.layers:
        filled = f"{gigabytes(room.taken)} of {gigabytes(room.size)} for rows"
        log.info("%s: the rows of layers %s stay on %s (%s)", name, names(kept.layers), device, filled)
    if others:
        left = gigabytes(room.size - room.taken)
        log.info("%s: layers %s do not fit on %s (%s left for rows)", name, names(others), device, left)


def _compute_along(config: Config, job: Job, stages: list[str], store: Target, rows: "KeptStore") -> None:
    """Publishes the results of one layer. After an error, those that are missing are left to their own jobs."""
    from saelib.init_death import stage as init_death
    from saelib.stats import stage as stats

    runs = {"stats": stats.run, "init_death": init_death.run}
    for stage in stages:
        targets = tuple(target for target in job.along if (target.stage, target.layer) == (stage, store.layer))
        try:
            run_stale(config, Job(stage, job.name, targets, ()), partial(runs[stage], kept={store.layer: rows}))
        except Exception:  # the store is published, and the stage's own job fails under its own name
            reads = f"the job of {stage} reads the store instead"
            log.warning("%s layer %s: %s", store.model, store.layer, reads, exc_info=True)
            return
