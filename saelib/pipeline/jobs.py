"""Runs one job of a plan: turns a script's command line into one library call."""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from saelib.config import Config
from saelib.environments import explain_missing_extras
from saelib.errors import UserError
from saelib.files.publish import remove_drafts
from saelib.pipeline.failures import FailureRecord
from saelib.pipeline.plan import Job, load_job
from saelib.pipeline.targets import stale

log = logging.getLogger("saelib")


def run_job(stage: str, run: Callable[[Config, Job], None]) -> None:
    """Does all that a stage's script does: reads the arguments, runs the job's stale targets, and logs the outcome."""
    parser = argparse.ArgumentParser(description=f"Run one job of the stage '{stage}' of a plan. Snakemake calls this.")
    parser.add_argument("--plan", type=Path, required=True, help="plan.json of the run")
    parser.add_argument("--job", required=True, help="name of the job within the stage")
    parser.add_argument("--log", type=Path, required=True, help="file that the log is written to")
    arguments = parser.parse_args()
    _log_to(arguments.log)
    started = time.monotonic()
    job_id = f"{stage}/{arguments.job}"
    failure = FailureRecord(arguments.plan.parent, job_id)
    try:
        failure.clear()
        config, job = load_job(arguments.plan, job_id)
        count = run_stale(config, job, run)
        log.info("done: %d results in %.1f s", count, time.monotonic() - started)
        return
    except UserError as error:
        reason = str(error)
        log.error("%s", reason)
    except MemoryError as error:
        reason = f"needs more memory than there is ({error})".removesuffix(" ()")
        log.error("%s", reason)
        log.debug("the traceback of this error:", exc_info=True)
    except OSError as error:
        reason = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        log.error("%s", reason)
        log.debug("the traceback of this error:", exc_info=True)
    except Exception as error:
        # The process ends here, so nothing is swallowed. Catching everything puts the traceback into the job's log too.
        reason = f"a defect in saelib, or an input it does not foresee ({type(error).__name__}); see {arguments.log}"
        log.exception("a defect in saelib, or an input it does not foresee")
    _record(failure, stage, reason)
    sys.exit(1)


def run_stale(config: Config, job: Job, run: Callable[[Config, Job], None]) -> int:
    """Runs the targets of a job that are still stale, and returns their number.

    Some may be fresh by now: if the job is retried, if a second controller runs it too, or if an extraction on a GPU
    has computed them (`saelib.pipeline.one_pass`).
    """
    left = tuple(stale(job.targets))
    for target in left:
        # Only this target's drafts: jobs of other layers may be writing in the folder.
        remove_drafts(target.output.parent, f"{target.output.stem}.")
    if len(left) < len(job.targets):
        log.info("%d of %d results are already there", len(job.targets) - len(left), len(job.targets))
    if left:
        with explain_missing_extras():
            run(config, replace(job, targets=left))
    return len(left)


def _record(failure: FailureRecord, stage: str, reason: str) -> None:
    """Records the reason for the report. That may fail as well, for example if the disk is full."""
    try:
        failure.write(stage, reason)
    except (UserError, OSError) as error:
        log.error("the reason could not be recorded for the report: %s", error)


def _log_to(path: Path) -> None:
    """Sends all messages to the log file, and errors to the terminal too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(path, mode="w")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_terminal = logging.StreamHandler()
    to_terminal.setLevel(logging.ERROR)
    to_terminal.setFormatter(logging.Formatter("saelib: %(message)s"))
    # Routine messages of other libraries would bury ours.
    logging.basicConfig(level=logging.WARNING, handlers=[to_file, to_terminal])
    log.setLevel(logging.DEBUG)
