"""Holds the logic of the Snakefile and its rules, which have none themselves."""

import fcntl
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from saelib.config import Config, load_config
from saelib.devices.cards import count_cards
from saelib.environments import ENVIRONMENTS, interpreter
from saelib.errors import UserError
from saelib.files.sealed import read_sealed
from saelib.pipeline.failures import unfinished
from saelib.pipeline.keys import PACKAGE
from saelib.pipeline.plan import Plan, make_plan
from saelib.pipeline.reasons import UNFINISHED
from saelib.pipeline.resources import job_resources, job_threads, runs_model
from saelib.pipeline.time_left import Announcer, Forecast, earlier_seconds, known_capacity

log = logging.getLogger(__name__)

PLAN = "SAELIB_PLAN"
"""Environment variable that names the saved plan for the jobs of a run."""


class Workflow:
    """A suite as Snakemake sees it: the jobs of this run and their markers.

    The process that controls a run makes the plan once, in memory, and saves it when the run starts. Every other
    process reads the saved plan of the run whose marker it makes. It never makes its own plan, because some results are
    already fresh by then.
    """

    def __init__(
        self,
        configfiles: Sequence[Path],
        overrides: Mapping[str, Any],
        default: str,
        controls: bool = True,
        home: Path | str = PACKAGE.parent,
    ) -> None:
        """Reads the config.

        Args:
            configfiles: Files given on the command line.
            overrides: Values given on the command line.
            default: The file to read if none was given.
            controls: Whether this process controls the run. Other processes read the config from the plan, because the
                files may have been edited since.
            home: The Snakefile's folder, which need not be the working folder.
        """
        plan = None if controls else os.environ.get(PLAN)
        if plan is not None:
            self.config = Config.model_validate(read_sealed(Path(plan))["config"])
        elif not os.access(".snakemake" if Path(".snakemake").exists() else ".", os.W_OK):
            raise UserError(
                f"{Path.cwd()} cannot be written, and Snakemake keeps its records there, in .snakemake; "
                "name another working folder with --directory"
            )
        elif configfiles or Path(default).exists():
            self.config = load_config(*(configfiles or [Path(default)]), overrides=overrides)
        else:
            raise UserError(f"no {default} in the working folder {Path.cwd()}; name another file with --configfile")
        if not {"{", "}"}.isdisjoint(self.results):
            raise UserError(f"results: {self.results}: braces in paths mean something to Snakemake; use a path without")
        self.run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        self._requesting = self.config
        """The config that jobs' requests follow."""
        self._home = Path(os.path.abspath(home))  # Snakemake says work/../saelib
        # Jobs call `python`, which must be the one that runs Snakemake, with or without an activated environment. They
        # import the saelib next to the Snakefile, as Snakemake does, whatever is installed or in the working folder.
        _put_first("PATH", Path(sys.executable).parent)
        _put_first("PYTHONPATH", self._home)

    @property
    def results(self) -> str:
        """The results folder, as a string for paths in rules."""
        return str(self.config.results)

    @cached_property
    def plan(self) -> Plan:
        """The stale jobs of this run; only the controlling process may ask for them."""
        return make_plan(self.config)

    def share_gpus(self, snakemake: Any, cards: int | None = None) -> None:
        """Lets as many jobs use a GPU at a time as this machine has GPUs; the Snakefile calls it before its rules.

        On a cluster, whose scheduler gives out GPUs, and on machines without GPUs it does nothing. `--resources gpu=1`
        sets a lower limit. Which GPU a job gets is decided when it starts (`saelib.devices.cards`).

        Args:
            snakemake: Snakemake's own workflow.
            cards: Number of GPUs; counted if it is not given.
        """
        cards = count_cards() if cards is None else cards
        if cards and snakemake.is_main_process and snakemake.resource_settings.nodes is None:
            self._requesting = self.config.model_copy(update={"gpus": True})
            if "gpu" not in snakemake.global_resources:
                snakemake.global_resources["gpu"] = cards

    def start(self, snakemake: Any = None) -> None:
        """Claims the results folder and saves the plan. The Snakefile calls it when the run starts, before any job.

        Given Snakemake's own workflow, the run prints after each job how much time is left.

        Raises:
            UserError: If another run is at work in the folder. The claim ends with the process, however it ends.
        """
        self._claim = claim(self.config.results)
        plan = self._plan_file(self.run)
        self.plan.save(plan)
        os.environ[PLAN] = str(plan.absolute())
        if snakemake is not None:
            self._announce(snakemake)

    def _announce(self, snakemake: Any) -> None:
        from snakemake.logging import logger
        from snakemake.settings.enums import Quietness

        forecast = Forecast(self.config, self.plan.jobs, earlier_seconds(self.config.results))
        settings = snakemake.resource_settings
        capacity = known_capacity(settings.cores, settings.nodes, snakemake.local_exec)
        announcer = Announcer(
            forecast,
            lambda: forecast.seconds_left(*capacity),
            lambda line: logger.info(line, extra={"quietness": Quietness.PROGRESS}),
        )
        logger.addHandler(announcer)
        announcer.announce()

    def report_unfinished(self) -> None:
        """Reports the results that exist and why others are missing. The Snakefile calls it after a failure."""
        from saelib.report import run as report
        from saelib.theory.stage import write_predictions

        try:
            if self.config.models:
                write_predictions(self.config, UNFINISHED, partly=True)
            report(self.config, UNFINISHED, unfinished(self.plan, self._plan_file(self.run).parent))
        except (UserError, OSError) as error:
            log.error("the results that exist could not be reported: %s", error)

    def everything(self, snakemake: Any) -> Callable[[Any], list[str]]:
        """Returns the input function of the rule `all`, which gives the markers of all jobs of this run.

        The function ends a run that was asked to force something. `snakemake` is Snakemake's own workflow, which knows
        of that only by the time it calls input functions.
        """

        def inputs(_: Any) -> list[str]:
            if not snakemake.is_main_process:
                return []
            refuse_forcing(snakemake.dag_settings, snakemake.touch)
            return self.markers()

        return inputs

    def markers(self) -> list[str]:
        """Returns the markers of all jobs of this run, which Snakemake is to make.

        If nothing is stale, it returns the finished report, because a rule without any input would always run.
        """
        return [self._marker(self.run, job) for job in self.plan.jobs] or [f"{self.results}/report.json"]

    def before(self, stage: str) -> Callable[[Any], list[str]]:
        """Returns the input function of a stage's rule, which gives the markers of the jobs that must come first."""

        def inputs(wildcards: Any) -> list[str]:
            return [self._marker(wildcards.run, name) for name in self._planned(stage, wildcards)["after"]]

        return inputs

    def why(self, stage: str) -> Callable[[Any], str]:
        """Returns a function for a stage's rule that gives the reason why a job runs, on one line."""

        def reason(wildcards: Any) -> str:
            return self._planned(stage, wildcards)["why"]

        return reason

    def script(self, stage: str) -> str:
        """Returns the path of a stage's script, which is right in every working folder."""
        return str(self._home / "scripts" / f"{stage}.py")

    def resource(self, stage: str, name: str) -> Callable[[Any, int], int]:
        """Returns a function for a stage's rule that gives one of its resources: `mem_mb`, `runtime` or `gpu`."""

        def amount(wildcards: Any, attempt: int) -> int:
            return getattr(job_resources(self._requesting, stage, wildcards.job, attempt), name)

        return amount

    def environment(self, stage: str) -> Callable[[Any], str]:
        """Returns a function for a stage's rule that gives the file in `envs/` with the packages of a job."""

        def name(wildcards: Any) -> str:
            family = self._family(stage, wildcards.job)
            return f"../envs/{ENVIRONMENTS.get(family or '', 'saelib')}.yaml"

        return name

    def python(self, stage: str) -> Callable[[Any], str]:
        """Returns a function for a stage's rule that gives the Python that runs a job."""

        def path(wildcards: Any) -> str:
            family = self._family(stage, wildcards.job)
            return "python" if family is None else interpreter(family)

        return path

    def threads(self, stage: str) -> Callable[[Any], int]:
        """Returns a function for a stage's rule that gives the CPU threads of a job."""

        def number(wildcards: Any) -> int:
            return job_threads(self.config, stage, wildcards.job)

        return number

    def _family(self, stage: str, job: str) -> str | None:
        """Returns the family of the model that a job runs; None for jobs that run none."""
        runs = runs_model(self.config, stage, job)
        return self.config.models[job.partition("/")[0]].source.family if runs else None

    def _planned(self, stage: str, wildcards: Any) -> dict[str, Any]:
        """Returns the fields of a job, from the plan in memory or, in the process that runs the job, the saved one."""
        job = f"{stage}/{wildcards.job}"
        if wildcards.run == self.run:
            return vars(self.plan.jobs[job])
        return read_sealed(self._plan_file(wildcards.run))["jobs"][job]

    def _marker(self, run: str, job: str) -> str:
        return f"{self.results}/runs/{run}/done/{job}"

    def _plan_file(self, run: str) -> Path:
        return self.config.results / "runs" / run / "plan.json"


def claim(results: Path) -> TextIO:
    """Claims a results folder until the returned file is closed or the process ends.

    Raises:
        UserError: If the folder cannot be written, or if a run or a command that removes results is at work there.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = (results / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{results}: results cannot be written there ({error.strerror})") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{results}: another run is at work in this folder; wait for it or stop it") from None
    except OSError as error:  # some network file systems are mounted without locks
        log.warning("%s: cannot be locked (%s); do not start a second run there", results, error.strerror)
    return file


def refuse_forcing(asked: Any, touch: bool = False) -> None:
    """Ends the process if Snakemake was asked to force rules or to touch results, because keys alone decide what runs.

    Args:
        asked: An object with `forceall`, `forcerun` and `forcetargets`, such as Snakemake's `DAGSettings`.
        touch: Whether Snakemake was asked to mark results as made.
    """
    if touch:
        sys.exit(
            "error: --touch makes no result fresh, because keys decide what runs; "
            "'saelib plan' lists the stale results and why they are stale"
        )
    words = {"--forceall": asked.forceall, "--forcerun": asked.forcerun, "--force": asked.forcetargets}
    for word, given in words.items():
        if given:
            # Snakemake would wrap another exception into several lines about an input function.
            sys.exit(
                f"error: {word} recomputes no result, because keys decide what runs; "
                "'saelib redo STAGE' (saelib redo --help) removes results, and the next run recomputes them"
            )


def _put_first(variable: str, folder: Path) -> None:
    """Moves a folder to the front of an environment variable, for this process and its children."""
    others = [one for one in os.environ.get(variable, "").split(os.pathsep) if one and one != str(folder)]
    os.environ[variable] = os.pathsep.join([str(folder), *others])
