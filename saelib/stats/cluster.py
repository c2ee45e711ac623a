"""Connects to a dask cluster that computes statistics, and reports what is wrong with it instead of waiting forever."""

import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, KilledWorker, Worker, WorkerPlugin, wait
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.comm.core import CommClosedError
from threadpoolctl import threadpool_limits

from saelib.config.cluster import DaskScheduler, DaskSlurm, SlurmWorkers
from saelib.errors import UserError
from saelib.pipeline.keys import code_hash

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class Cluster:
    """The workers of a dask scheduler, which are waited for no longer than `wait_seconds`."""

    def __init__(self, client: Client, name: str, wait_seconds: float) -> None:
        """Takes a connected client; use `connected`."""
        self.client: Any = client  # Any, because its methods are typed for use with and without await
        self.name = name
        self.wait_seconds = wait_seconds

    def compute(self, tasks: Sequence[Any]) -> list[Any]:
        """Computes the values of delayed tasks.

        Raises:
            UserError: if a task raises it, if tasks keep killing their workers, if there has been no worker for
                `wait_seconds`, or if the scheduler is gone.
        """
        futures = self.client.compute(list(tasks))
        try:
            self._wait(futures)
            return list(self.client.gather(futures))
        except KilledWorker:
            raise UserError(
                f"dask at {self.name}: one task has killed several workers; they may need more memory"
            ) from None
        except (FutureCancelledError, FuturesCancelledError, CommClosedError):
            raise UserError(f"dask at {self.name}: the scheduler is gone; run it again") from None

    def _wait(self, futures: list[Any]) -> None:
        seen = time.monotonic()
        while True:
            try:
                wait(futures, timeout=POLL_SECONDS)
                return
            except TimeoutError:
                if self.client.status != "running":
                    raise UserError(f"dask at {self.name}: the scheduler is gone; run it again") from None
            if self.client.nthreads():
                seen = time.monotonic()
            elif time.monotonic() - seen > self.wait_seconds:
                raise UserError(f"dask at {self.name}: no worker is left, and none came in {self.wait_seconds:.0f} s")


class _OneThreadOfTheSameCode(WorkerPlugin):
    """Makes every present and future worker compute the same bits as the job itself would."""

    name = "saelib"

    def __init__(self, code: str) -> None:
        self.code = code

    def setup(self, worker: Worker) -> None:
        if code_hash("saelib.stats.stage") != self.code:
            raise UserError(f"the worker on {worker.host} has another version of saelib; start it with this one")
        threadpool_limits(1, "blas")


@contextmanager
def connected(config: DaskScheduler | DaskSlurm, logs: Path) -> Iterator[Cluster]:
    """Connects to a cluster and waits until it has at least one worker.

    Args:
        config: Which cluster to use.
        logs: Folder for the logs of Slurm's jobs.

    Raises:
        UserError: if the scheduler or the first worker does not answer in time, or has another version of saelib.
    """
    if isinstance(config, DaskScheduler):
        with _client(config.scheduler, config.scheduler, config.wait_seconds) as cluster:
            yield cluster
    else:
        with (
            _slurm(config.slurm, logs) as cluster,
            _client(cluster, "the workers from Slurm", config.slurm.wait_seconds) as connection,
        ):
            yield connection


@contextmanager
def _client(address: Any, name: str, wait_seconds: float) -> Iterator[Cluster]:
    try:
        client: Any = Client(address, timeout=wait_seconds)
    except (OSError, ValueError) as error:
        raise UserError(f"dask: no scheduler answers at {name} within {wait_seconds} s ({_brief(error)})") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=wait_seconds)
        except TimeoutError:
            raise UserError(f"dask at {name}: no worker came within {wait_seconds} s") from None
        try:
            client.register_plugin(_OneThreadOfTheSameCode(code_hash("saelib.stats.stage")))
        except ImportError as error:
            raise UserError(f"dask at {name}: its workers lack a package that they need ({error})") from None
        log.info("dask at %s: %d workers", name, len(client.nthreads()))
        yield Cluster(client, name, wait_seconds)


@contextmanager
def _slurm(workers: SlurmWorkers, logs: Path) -> Iterator[Any]:
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise UserError("dask: workers from Slurm need one more package: pip install 'saelib[slurm]'") from None
    if shutil.which("sbatch") is None:
        raise UserError("dask.slurm: there is no sbatch here; run this on a machine that has Slurm's commands")
    logs.mkdir(parents=True, exist_ok=True)
    cluster: Any = SLURMCluster(
        processes=1,
        cores=workers.cores,
        memory=workers.memory,
        walltime=workers.walltime,
        queue=workers.partition,
        account=workers.account,
        interface=workers.interface,
        job_extra_directives=list(workers.directives),
        python=sys.executable,
        log_directory=str(logs),
        scheduler_options={"dashboard": False, "dashboard_address": ":0"},  # a free port for each job
    )
    with cluster:
        _check_accepted(cluster.job_script())
        cluster.scale(jobs=workers.jobs)
        yield cluster


def _check_accepted(script: str) -> None:
    """Raises `UserError` if Slurm refuses such workers; dask would keep asking for them without an error."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        asked = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True)
    if asked.returncode:
        raise UserError(f"dask.slurm: Slurm refuses the workers ({asked.stderr.strip()})")


def _brief(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
