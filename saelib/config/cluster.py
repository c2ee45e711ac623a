"""Settings of the dask cluster that computes statistics in place of the jobs themselves."""

from typing import Annotated, Any

from pydantic import Discriminator, StringConstraints, Tag

from saelib.config.base import Count, Section


class DaskScheduler(Section):
    """A cluster that runs already."""

    scheduler: Annotated[str, StringConstraints(pattern=r"^(tcp|tls)://[^\s@/]+:\d+$")]
    """Its address, such as `tcp://head:8786`."""
    wait_seconds: Count = 30
    """How long to wait for the scheduler and for a first worker, at the start and whenever there is none."""


class SlurmWorkers(Section):
    """Workers that each job of stage `stats` asks Slurm for, and gives back at its end."""

    jobs: Count
    """Number of Slurm jobs; each runs one worker process."""
    cores: Count = 4
    """CPU cores of each job; its worker runs as many threads."""
    memory: Annotated[str, StringConstraints(pattern=r"^\d+ ?[KMGT]i?B$")] = "16GiB"
    """Memory of each job."""
    walltime: Annotated[str, StringConstraints(pattern=r"^(\d+-)?\d+:\d\d:\d\d$")] = "04:00:00"
    """Time limit of each, as Slurm writes it."""
    partition: str | None = None
    """Slurm's partition; none: the default one."""
    account: str | None = None
    """Slurm's account; none: the default one."""
    interface: str | None = None
    """Network interface for workers and scheduler, such as `ib0`; none: dask's choice."""
    directives: tuple[str, ...] = ()
    """Further `#SBATCH` lines, such as `--constraint=icelake`."""
    wait_seconds: Count = 3_600
    """How long to wait in the queue for a first worker, at the start and whenever there is none."""


class DaskSlurm(Section):
    """A cluster of its own for each job of stage `stats`."""

    slurm: SlurmWorkers


def _kind(value: Any) -> str | None:
    """Tell the two apart by the key that only each of them has."""
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
