"""Settings of the dask cluster that computes statistics instead of the jobs themselves."""

from typing import Annotated, Any

from pydantic import Discriminator, StringConstraints, Tag

from saelib.config.base import Count, Section


class DaskScheduler(Section):
    """A dask cluster that is already running."""

    scheduler: Annotated[str, StringConstraints(pattern=r"^(tcp|tls)://[^\s@/]+:\d+$")]
    """Address of its scheduler, such as `tcp://head:8786`."""
    wait_seconds: Count = 30
    """Seconds that a job waits for the scheduler and a first worker, at the start and whenever all workers are gone,
    before it fails. Raise it if workers start slowly."""


class SlurmWorkers(Section):
    """Workers that each job of stage `stats` requests from Slurm, and releases at its end."""

    jobs: Count
    """Number of Slurm jobs. Each runs one worker process."""
    cores: Count = 4
    """CPU cores of each Slurm job. Its worker runs as many threads."""
    memory: Annotated[str, StringConstraints(pattern=r"^\d+ ?[KMGT]i?B$")] = "16GiB"
    """Memory of each Slurm job, with its unit, such as `16GiB`. Raise it for wide layers."""
    walltime: Annotated[str, StringConstraints(pattern=r"^(\d+-)?\d+:\d\d:\d\d$")] = "04:00:00"
    """Time limit of each Slurm job, as `hours:minutes:seconds` or `days-hours:minutes:seconds`."""
    partition: str | None = None
    """Slurm partition of the workers. Without it, Slurm uses its default partition."""
    account: str | None = None
    """Slurm account that is charged. Without it, Slurm uses your default account."""
    interface: str | None = None
    """Network interface for workers and scheduler, such as `ib0`. Without it, dask chooses one. Set it if workers
    cannot reach the scheduler."""
    directives: tuple[str, ...] = ()
    """Further `#SBATCH` options, such as `--constraint=icelake`."""
    wait_seconds: Count = 3_600
    """Seconds that a job waits in the queue for a first worker, at the start and whenever all workers are gone, before
    it fails. Raise it if your queue is long."""


class DaskSlurm(Section):
    """A separate dask cluster for each job of stage `stats`, started through Slurm."""

    slurm: SlurmWorkers


def _kind(value: Any) -> str | None:
    """Tells the two kinds apart by the key that only one of them has."""
    for kind in ("scheduler", "slurm"):
        if (isinstance(value, dict) and kind in value) or hasattr(value, kind):
            return kind
    return None


DaskConfig = Annotated[
    Annotated[DaskScheduler, Tag("scheduler")] | Annotated[DaskSlurm, Tag("slurm")],
    Discriminator(
        _kind,
        custom_error_type="dask",
        custom_error_message="needs `scheduler: tcp://host:port`, or `slurm:` with the number of `jobs`",
    ),
]
