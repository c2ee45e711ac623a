"""Stage `stats`: computes the statistics of several layers from their stores."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from saelib.activations.rows import Rows
from saelib.config import Config
from saelib.config.sites import Layer
from saelib.devices.cards import job_device
from saelib.progress import progress
from saelib.stats import compute_stats, save_stats
from saelib.store import open_store

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job
    from saelib.stats.slabs import Workers
    from saelib.store.kept import KeptStore

log = logging.getLogger(__name__)


def run(config: Config, job: "Job", kept: "Mapping[Layer, KeptStore] | None" = None) -> None:
    """Computes statistics of the training rows of each target's layer.

    The rows come from the layer's store, or from `kept` if an extraction has left them on a GPU.
    """
    # The eigenvectors of the covariance need a second Gram matrix, so they are computed only if they are used later.
    whitening = config.needs_whitening()
    device = job_device(config.stats.device, "stats.device", float64=True)
    with _workers(config) as workers, progress(f"stats {job.name}", len(job.targets), "layers", log) as advance:
        for target in job.targets:
            store = (kept or {}).get(target.layer) or open_store(config.store_path(target.model, target.layer))
            with _explained(store.train, device):
                stats = compute_stats(store.train, workers=workers, whitening=whitening, device=device)
            for warning in stats.warnings:
                log.warning("%s layer %s: %s", target.model, target.layer, warning)
            save_stats(stats, target.output, target.key)
            advance(1, note=f"{target.model} layer {target.layer}")


def _explained(rows: Rows, device: str) -> AbstractContextManager[None]:
    """Turns an exhausted GPU memory into a sentence."""
    if device == "cpu":
        return nullcontext()
    from saelib.devices.memory import explained_shortage, gigabytes
    from saelib.stats.on_device import least_bytes

    width = rows.shape[1]
    return explained_shortage(
        lambda usable: (
            f"{rows.name}: statistics of width {width:,} take at least {gigabytes(least_bytes(width))}, and the GPU "
            f"has {gigabytes(usable)} for them; set `stats.device: cpu`"
        )
    )


@contextmanager
def _workers(config: Config) -> Iterator["Workers"]:
    """Yields the workers that `dask` in the config describes, or one thread of this process if it is not set."""
    if config.dask is None:
        yield 1
        return
    from saelib.stats.cluster import connected

    with connected(config.dask, config.results / "dask") as cluster:
        yield cluster
