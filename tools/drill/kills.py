"""Sends SIGKILL at random moments of every stage: to everything, to the controlling process alone, to one job alone."""

import os
import signal
import time

from tools.drill.ground import Case, DefectFound, Ground, Run, TooLate, drop, jobs
from tools.miniature import Tree

STAGES = ("start", "extract", "stats", "init_death", "theory", "train", "report")
WHOM = ("all", "controller", "job")
ATTEMPTS = 20
START_SECONDS = 2.0
"""Seconds until the first job of a run starts."""


def kill(ground: Ground, case: Case) -> str:
    """Kills once and starts the next run at once, during the jobs of a controlling process that was killed alone."""
    whom, stage = WHOM[case.seed % 3], STAGES[case.seed // 3 % 7]
    if stage == "start" and whom == "job":
        whom = "all"
    case.name = f"kill {whom}"
    as_it_writes = stage != "start" and case.rng.random() < 0.5
    share = case.rng.random()
    for _ in range(ATTEMPTS):
        with ground.copy() as tree:
            drop(tree, case.rng.choice(STAGES[1:]) if stage == "start" else stage, case.rng)
            run = Run(tree)
            try:
                case.moment = _wait(ground, run, stage, share, as_it_writes)
                _kill(run, stage, whom)
            except (TooLate, ProcessLookupError):
                run.end()
                share /= 2  # the job ended first; kill earlier next time
                continue
            if whom == "job":
                _check_lonely_end(run)
            return ground.settle(tree)
    raise DefectFound(f"{whom} could not be killed in {ATTEMPTS} runs: no job of the stage {stage} was found at work")


def _wait(ground: Ground, run: Run, stage: str, share: float, as_it_writes: bool) -> str:
    """Lets a run proceed to the moment of the kill. Returns a description of the moment."""
    if stage == "start":
        time.sleep(share * START_SECONDS)
        return f"{share * START_SECONDS:.2f} s after the start"
    run.until(lambda: jobs(run.tree, stage), every=0.02)  # each check reads all of /proc
    if as_it_writes:
        run.until(lambda: run.is_over or _is_writing(run.tree))
        time.sleep(share * 0.01)
        return f"{stage}, {share * 10:.0f} ms into its writing"
    time.sleep(share * ground.seconds[stage])
    return f"{stage}, {share * ground.seconds[stage]:.2f} s into its job"


def _is_writing(tree: Tree) -> bool:
    """Checks whether a file or folder that will be published is being written."""
    for _, folders, _ in os.walk(tree.results):
        if any(name.endswith(".draft") for name in folders):
            return True
        folders[:] = [name for name in folders if name != "runs" and not name.endswith(".zarr")]
    return False


def _kill(run: Run, stage: str, whom: str) -> None:
    """Kills. Raises `TooLate` or `ProcessLookupError` if there is nothing to kill."""
    if run.is_over:
        raise TooLate
    if whom == "all":
        run.kill_all()
    elif whom == "controller":
        run.process.kill()
        run.process.wait()
    else:
        found = jobs(run.tree, stage)
        if not found:
            raise TooLate
        os.kill(found[0], signal.SIGKILL)


def _check_lonely_end(run: Run) -> None:
    """Checks that a run that has lost a job says so and ends."""
    done = run.end()
    if done.returncode == 0:
        raise DefectFound("a job was killed and the run says that it succeeded")
    if "Traceback" in done.words:
        raise DefectFound("a job was killed and the run ends in a traceback")
