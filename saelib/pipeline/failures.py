"""Records of why the jobs of a run failed, kept next to its plan for the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saelib.files.sealed import read_json, write_json
from saelib.pipeline.targets import stale

if TYPE_CHECKING:
    from saelib.pipeline.plan import Plan


@dataclass(frozen=True)
class Failure:
    """Why a job of a run failed."""

    stage: str
    reason: str


Failures = Mapping[tuple[str, str, int, str], Failure]
"""(stage, model, layer, variant) of each result that is absent -> the failure that caused it."""
NO_REASON = "the job was not run, or ended without giving a reason; its log may tell"


class FailureRecord:
    """The file in a run's folder that says why a job failed; there is none where it has not."""

    def __init__(self, run: Path, job: str) -> None:
        """`run`: the run's folder; `job`: 'stage/name'."""
        self._path = run / "failed" / f"{job}.json"

    def clear(self) -> None:
        """Forget an earlier attempt."""
        self._path.unlink(missing_ok=True)

    def write(self, stage: str, reason: str) -> None:
        """Say why the job failed."""
        write_json(self._path, {"stage": stage, "reason": reason})

    def read(self) -> Failure | None:
        """None where the job left no reason: it did not fail, was not run, or was killed."""
        return Failure(**read_json(self._path)) if self._path.exists() else None


def unfinished(plan: "Plan", run: Path) -> Failures:
    """Every result of a plan that is still missing or out of date, and why.

    Args:
        plan: of the run.
        run: the run's folder.
    """
    found: dict[tuple[str, str, int, str], Failure] = {}
    causes: dict[str, Failure] = {}
    for job in plan.jobs.values():  # each after the jobs that it needs
        left = stale(job.targets)
        if left:
            upstream = next((causes[name] for name in job.after if name in causes), None)
            causes[job.id] = FailureRecord(run, job.id).read() or upstream or Failure(job.stage, NO_REASON)
            found |= {(job.stage, t.model, t.layer, t.variant): causes[job.id] for t in left}
    return found
