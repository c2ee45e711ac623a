"""Records of why the jobs of a run failed, kept next to its plan for the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saelib.config.sites import Layer
from saelib.files.sealed import read_json, write_json
from saelib.pipeline.targets import stale

if TYPE_CHECKING:
    from saelib.pipeline.plan import Plan


@dataclass(frozen=True)
class Failure:
    """The reason why a job of a run failed."""

    stage: str
    reason: str


Failures = Mapping[tuple[str, str, Layer, str], Failure]
"""`Target.address` of each missing result -> the failure that caused it."""
NO_REASON = "the job did not run, or ended without giving a reason; see its log"


class FailureRecord:
    """The file in a run's folder that says why a job failed. It exists only if the job failed."""

    def __init__(self, run: Path, job: str) -> None:
        """Names the file of the job `job` ('stage/name') in a run's folder."""
        self._path = run / "failed" / f"{job}.json"

    def clear(self) -> None:
        """Removes the record of an earlier attempt."""
        self._path.unlink(missing_ok=True)

    def write(self, stage: str, reason: str) -> None:
        """Records why the job failed."""
        write_json(self._path, {"stage": stage, "reason": reason})

    def read(self) -> Failure | None:
        """Returns the failure; None if the job left no reason because it succeeded, did not run or was killed."""
        return Failure(**read_json(self._path)) if self._path.exists() else None


def unfinished(plan: "Plan", run: Path) -> Failures:
    """Returns every result of a plan that is still stale, with the failure that caused it.

    Args:
        plan: The plan of the run.
        run: The run's folder.
    """
    found: dict[tuple[str, str, Layer, str], Failure] = {}
    causes: dict[str, Failure] = {}
    for job in plan.jobs.values():  # each after the jobs that it needs
        left = stale(job.targets)
        if left:
            upstream = next((causes[name] for name in job.after if name in causes), None)
            causes[job.id] = FailureRecord(run, job.id).read() or upstream or Failure(job.stage, NO_REASON)
            found |= {target.address: causes[job.id] for target in left}
    return found
