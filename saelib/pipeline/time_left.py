"""Estimates how long a suite will still take, from the jobs that have ended in this run and in earlier ones."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saelib.config import Config
from saelib.pipeline.plan import Job
from saelib.pipeline.resources import job_seconds, job_threads

START_SECONDS = 5.0
"""Seconds that every job takes in addition to its work, for Python, imports and compiled kernels."""
LATEST_RUNS = 20
"""Number of runs that are read, from the latest; older runs would add nothing."""


class Forecast:
    """Expects a duration for each job of a plan, and learns from each job that ends.

    A job that ran before is expected to take as long again. The duration of any other job is scaled, by the sizes in
    the config, from the jobs of its stage that have run or, if there are none, from those of other stages, which can be
    far off. Before any job has ever ended, the sizes alone give the time on a slow machine.
    """

    def __init__(self, config: Config, jobs: Mapping[str, Job], seconds: Mapping[str, float]) -> None:
        """Starts from the plan's `jobs` and the `seconds` of jobs that ran before, both by id."""
        self._config, self._jobs = config, jobs
        self._known = dict(seconds)
        self.left = dict.fromkeys(jobs)
        """Ids of the jobs that have not ended, in order of their dependencies."""

    def ended(self, job: str, seconds: float) -> None:
        """Records that a job has ended, and how many seconds it took."""
        self.left.pop(job, None)
        self._known[job] = seconds

    @property
    def measured(self) -> bool:
        """Checks whether any job has ever ended; until then, `seconds_left` is that of a slow machine."""
        return bool(self._known)

    def seconds_left(self, at_once: int, of_threads: bool = True) -> float:
        """Estimates the seconds until all jobs have ended.

        Args:
            at_once: The number of threads that jobs share or, if `of_threads` is false, of jobs that run at a time.
            of_threads: Whether `at_once` counts threads.
        """
        ratios = self._ratios()
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

    def _ratios(self) -> tuple[dict[str, float], float]:
        """Divides the seconds that jobs took by those expected from their sizes, by stage and for all together."""
        taken: dict[str, float] = {}
        costs: dict[str, float] = {}
        for job, seconds in self._known.items():
            stage = job.partition("/")[0]
            taken[stage] = taken.get(stage, 0.0) + seconds
            costs[stage] = costs.get(stage, 0.0) + self._cost(job)
        by_stage = {stage: taken[stage] / costs[stage] for stage in taken}
        # Sizes give the time on a slow machine, so only something particular to a stage can make a job take longer.
        return by_stage, min(1.0, sum(taken.values()) / sum(costs.values())) if taken else 1.0

    def _cost(self, job: str) -> float:
        stage, _, name = job.partition("/")
        return START_SECONDS + job_seconds(self._config, stage, name)

    def _threads(self, job: str) -> int:
        stage, _, name = job.partition("/")
        return job_threads(self._config, stage, name)


def earlier_seconds(results: Path) -> dict[str, float]:
    """Reads how many seconds jobs took in the latest runs of a results folder, by id; the latest time of each job."""
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
    """Listens to Snakemake's log and prints, after each job, how many are done and how long the rest will take."""

    def __init__(self, forecast: Forecast, seconds_left: Callable[[], float], say: Callable[[str], Any]) -> None:
        """Takes the forecast, a function that returns its seconds left, and `say`, which prints a line."""
        super().__init__()
        self._forecast, self._seconds_left, self._say = forecast, seconds_left, say
        self._total = len(forecast.left)
        self._running: dict[int, tuple[str, float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Handles two of Snakemake's events: the start and the end of a job."""
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
        """Prints the number of jobs done and the time left."""
        left = len(self._forecast.left)
        if left:
            time = in_words(self._seconds_left(), self._forecast.measured)
            self._say(f"saelib: {self._total - left} of {self._total} jobs done, {time} left")


def in_words(seconds: float, measured: bool) -> str:
    """Writes a forecast for people, as a bound if no job has ever ended: 'at most about 12 min (by sizes alone)'."""
    return duration(seconds) if measured else f"at most {duration(seconds)} (by sizes alone)"


def duration(seconds: float) -> str:
    """Writes a duration for people, to about a tenth: 'about 12 min'."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"about {hours:.0f} h" if hours >= 10 else f"about {hours:.1f} h"


def known_capacity(cores: int | None, jobs: int | None, local: bool) -> tuple[int, bool]:
    """Returns the arguments of `Forecast.seconds_left`: a machine's threads, or the jobs that a cluster runs."""
    return (cores or 1, True) if local else (jobs or 1, False)


def _benchmark(file: Path) -> float | None:
    """Reads the seconds in a benchmark file of Snakemake's; None if it is damaged or being written."""
    try:
        lines = file.read_text().splitlines()
        return float(lines[1].split("\t")[0])
    except (OSError, ValueError, IndexError):
        return None
