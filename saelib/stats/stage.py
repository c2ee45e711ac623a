"""Stage `stats`: computes the statistics of several layers from their stores."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from saelib.config import Config
from saelib.progress import progress
from saelib.stats import compute_stats, save_stats
from saelib.store import open_store

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job
    from saelib.stats.slabs import Workers

log = logging.getLogger(__name__)


def run(config: Config, job: "Job") -> None:
    """Computes statistics of the training rows of each target's layer."""
    # The eigenvectors of the covariance need a second Gram matrix, so they are computed only if they are used later.
    whitening = config.needs_whitening()
    with _workers(config) as workers, progress(f"stats {job.name}", len(job.targets), "layers", log) as advance:
        for target in job.targets:
            store = open_store(config.store_path(target.model, target.layer))
            stats = compute_stats(store.train, workers=workers, whitening=whitening)
            for warning in stats.warnings:
                log.warning("%s layer %d: %s", target.model, target.layer, warning)
            save_stats(stats, target.output, target.key)
            advance(1, note=f"{target.model} layer {target.layer}")


@contextmanager
def _workers(config: Config) -> Iterator["Workers"]:
    """Yields the workers that `dask` in the config describes, or one thread of this process if it is not set."""
    if config.dask is None:
        yield 1
        return
    from saelib.stats.cluster import connected

    with connected(config.dask, config.results / "dask") as cluster:
        yield cluster
