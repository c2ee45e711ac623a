"""How long a suite will still take, going by the jobs that have ended: of earlier runs, and of this one."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saelib.config import Config
from saelib.pipeline.plan import Job
from saelib.pipeline.resources import job_seconds, job_threads

START_SECONDS = 5.0
"""Seconds that every job takes in addition to its work: Python, imports, compiling a kernel."""
LATEST_RUNS = 20
"""Older runs say nothing that these do not."""


class Forecast:
    """What the jobs of a plan will take. It learns from each job that ends.

    A job that ran before is expected to take as long again. Of others, the sizes in the config tell how they compare
    with those of their stage that have run; where none has, with those of other stages, which can be far off.
    """

    def __init__(self, config: Config, jobs: Mapping[str, Job], seconds: Mapping[str, float]) -> None:
        """`jobs`: of the plan, by id; `seconds`: of jobs that ran before, by id."""
        self._config, self._jobs = config, jobs
        self._known = dict(seconds)
        self.left = dict.fromkeys(jobs)
        """Ids of the jobs that have not ended, in order of their dependencies."""

    def ended(self, job: str, seconds: float) -> None:
        """Take note that a job has ended, after so many seconds."""
        self.left.pop(job, None)
        self._known[job] = seconds

    def seconds_left(self, at_once: int, of_threads: bool = True) -> float | None:
        """Estimates the seconds until all jobs have ended; None before any job has ever ended.

        Args:
            at_once: threads that jobs share; with `of_threads` false, jobs that run at a time, whatever their threads.
            of_threads: which of the two it is.
        """
        ratios = self._ratios()
        if ratios is None:
            return None
        expected = {job: self._expected(job, *ratios) for job in self.left}
        ends: dict[str, float] = {}
        for job in self.left:
            ends[job] = expected[job] + max((ends.get(name, 0.0) for name in self._jobs[job].after), default=0.0)
        shares = {job: min(self._threads(job), at_once) if of_threads else 1 for job in self.left}
        together = sum(expected[job] * shares[job] for job in self.left) / at_once
        return max(together, *ends.values()) if ends else 0.0

    def _expected(self, job: str, by_stage: Mapping[str, float], overall: float) -> float:
        if job in self._known:
            return self._known[job]
        return self._cost(job) * by_stage.get(job.partition("/")[0], overall)

    def _ratios(self) -> tuple[dict[str, float], float] | None:
        """Seconds that jobs took, over what their sizes let expect: of each stage that has run, and of all together."""
        taken: dict[str, float] = {}
        costs: dict[str, float] = {}
        for job, seconds in self._known.items():
            stage = job.partition("/")[0]
            taken[stage] = taken.get(stage, 0.0) + seconds
            costs[stage] = costs.get(stage, 0.0) + self._cost(job)
        if not taken:
            return None
        by_stage = {stage: taken[stage] / costs[stage] for stage in taken}
        # The sizes tell what a slow machine takes, so nothing takes longer but for reasons of its own stage.
        return by_stage, min(1.0, sum(taken.values()) / sum(costs.values()))

    def _cost(self, job: str) -> float:
        stage, _, name = job.partition("/")
        return START_SECONDS + job_seconds(self._config, stage, name)

    def _threads(self, job: str) -> int:
        stage, _, name = job.partition("/")
        return job_threads(self._config, stage, name)


def earlier_seconds(results: Path) -> dict[str, float]:
    """What jobs took in the latest runs of a results folder, by id; of several times the last."""
    found: dict[str, float] = {}
    runs = sorted((results / "runs").glob("*/benchmarks"), reverse=True)[:LATEST_RUNS]
    for folder in runs:
        for file in folder.rglob("*.tsv"):
            job = str(file.relative_to(folder)).removesuffix(".tsv")
            seconds = _benchmark(file) if job not in found else None
            if seconds is not None:
                found[job] = seconds
    return found


class Announcer(logging.Handler):
    """Listens to Snakemake's log, and says after each job how many are done and how long the rest will take."""

    def __init__(self, forecast: Forecast, seconds_left: Callable[[], float | None], say: Callable[[str], Any]) -> None:
        """`seconds_left`: of the forecast; `say`: prints a line."""
        super().__init__()
        self._forecast, self._seconds_left, self._say = forecast, seconds_left, say
        self._total = len(forecast.left)
        self._running: dict[int, tuple[str, float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Handles two of Snakemake's events: a job begins, and a job has ended."""
        event = getattr(getattr(record, "event", None), "value", None)
        about = vars(record)
        if event == "job_info":
            job = f"{about['rule_name']}/{dict(about['wildcards'] or {}).get('job')}"
            self._running[about["jobid"]] = (job, record.created)
        elif event == "job_finished" and about["job_id"] in self._running:
            job, began = self._running.pop(about["job_id"])
            if job in self._forecast.left:
                self._forecast.ended(job, record.created - began)
                self.announce()

    def announce(self) -> None:
        """Say where the run stands."""
        left = len(self._forecast.left)
        seconds = self._seconds_left()
        if left and seconds is not None:
            self._say(f"saelib: {self._total - left} of {self._total} jobs done, {duration(seconds)} left")


def duration(seconds: float) -> str:
    """As people say it, to about a tenth: 'about 12 min'."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"about {hours:.0f} h" if hours >= 10 else f"about {hours:.1f} h"


def known_capacity(cores: int | None, jobs: int | None, local: bool) -> tuple[int, bool]:
    """What `Forecast.seconds_left` is told of a run: the threads of a machine, or the jobs that a cluster takes."""
    return (cores or 1, True) if local else (jobs or 1, False)


def _benchmark(file: Path) -> float | None:
    """Seconds in a benchmark file of Snakemake's; None where it is damaged, or being written."""
    try:
        lines = file.read_text().splitlines()
        return float(lines[1].split("\t")[0])
    except (OSError, ValueError, IndexError):
        return None
