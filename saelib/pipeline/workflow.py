"""The logic behind the Snakefile and its rules, which hold none themselves."""

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
from saelib.config.load import check_config, read_yaml
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
"""The environment variable that names the saved plan to the jobs of a run."""


class Workflow:
    """A suite as Snakemake sees it: the jobs of this run, and where their markers lie.

    The process that controls a run makes the plan once, in memory, and saves it when the run starts. Every other
    process reads the saved plan of the run whose marker it is to make; it never makes a plan of its own, because by
    then some results are fresh already.
    """

    def __init__(
        self,
        configfiles: Sequence[Path],
        overrides: Mapping[str, Any],
        default: str,
        controls: bool = True,
        home: Path | str = PACKAGE.parent,
    ) -> None:
        """`configfiles` and `overrides` as given on the command line; `default` is read where no file was given.

        A process that does not control the run takes the config from the plan: the files may have been edited since.
        `home` is the Snakefile's folder, which need not be the working folder.
        """
        plan = None if controls else os.environ.get(PLAN)
        if plan is not None:
            self.config = Config.model_validate(read_sealed(Path(plan))["config"])
        elif not os.access(".snakemake" if Path(".snakemake").exists() else ".", os.W_OK):
            raise UserError(
                f"{Path.cwd()} cannot be written, and Snakemake keeps its records there, in .snakemake; "
                "--directory names another folder to work in"
            )
        elif configfiles or Path(default).exists():
            self.config = _merged(list(configfiles) or [Path(default)], overrides)
        else:
            raise UserError(f"no {default} in {Path.cwd()}, where the run works; --configfile names another file")
        if not {"{", "}"}.isdisjoint(self.results):
            raise UserError(f"results: {self.results}: Snakemake takes braces in paths for something else; use others")
        self.run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        self._home = Path(os.path.abspath(home))  # Snakemake says work/../saelib
        # Jobs call `python`: it must be the one that runs Snakemake, with or without an activated environment. They
        # import saelib from beside the Snakefile, as Snakemake does, whatever is installed or lies where it works.
        _put_first("PATH", Path(sys.executable).parent)
        _put_first("PYTHONPATH", self._home)

    @property
    def results(self) -> str:
        """The results folder, as a string for paths in rules."""
        return str(self.config.results)

    @cached_property
    def plan(self) -> Plan:
        """The stale jobs of this run. Only for the controlling process."""
        return make_plan(self.config)

    def start(self, snakemake: Any = None) -> None:
        """Called when the run starts, before any job: claim the results folder and save the plan.

        With Snakemake's own workflow, the run says after each job how much time is left.

        Raises:
            UserError: where another run is at work in the folder. The claim ends with the process, however it ends.
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
        """Called when the run has failed: a report of what there is, with the reasons for what is missing."""
        from saelib.report import run as report
        from saelib.theory.stage import write_predictions

        try:
            write_predictions(self.config, UNFINISHED, partly=True)
            report(self.config, UNFINISHED, unfinished(self.plan, self._plan_file(self.run).parent))
        except (UserError, OSError) as error:
            log.error("no report of what there is: %s", error)

    def everything(self, snakemake: Any) -> Callable[[Any], list[str]]:
        """Input function of the rule that asks for all: the markers of all jobs of this run.

        It refuses to run where Snakemake was asked to force something. `snakemake` is Snakemake's own workflow, which
        knows of that only when it calls input functions.
        """

        def inputs(_: Any) -> list[str]:
            if not snakemake.is_main_process:
                return []
            refuse_forcing(snakemake.dag_settings, snakemake.touch)
            return self.markers()

        return inputs

    def markers(self) -> list[str]:
        """Markers of all jobs of this run: what Snakemake is asked to make.

        Where nothing is stale, the finished report: a rule with no input at all would count as something to do.
        """
        return [self._marker(self.run, job) for job in self.plan.jobs] or [f"{self.results}/report.json"]

    def before(self, stage: str) -> Callable[[Any], list[str]]:
        """Input function of a stage's rule: the markers of the jobs that must come first."""

        def inputs(wildcards: Any) -> list[str]:
            return [self._marker(wildcards.run, name) for name in self._planned(stage, wildcards)["after"]]

        return inputs

    def why(self, stage: str) -> Callable[[Any], str]:
        """Function of a stage's rule for the reason why a job runs, on one line."""

        def reason(wildcards: Any) -> str:
            return self._planned(stage, wildcards)["why"]

        return reason

    def script(self, stage: str) -> str:
        """The script of a stage, wherever the run works."""
        return str(self._home / "scripts" / f"{stage}.py")

    def resource(self, stage: str, name: str) -> Callable[[Any, int], int]:
        """Function of a stage's rule for one of its resources: `mem_mb`, `runtime` or `gpu`."""

        def amount(wildcards: Any, attempt: int) -> int:
            return getattr(job_resources(self.config, stage, wildcards.job, attempt), name)

        return amount

    def environment(self, stage: str) -> Callable[[Any], str]:
        """Function of a stage's rule for the file in `envs/` with the packages of a job."""

        def name(wildcards: Any) -> str:
            family = self._family(stage, wildcards.job)
            return f"../envs/{ENVIRONMENTS.get(family or '', 'saelib')}.yaml"

        return name

    def python(self, stage: str) -> Callable[[Any], str]:
        """Function of a stage's rule for the Python that runs a job."""

        def path(wildcards: Any) -> str:
            family = self._family(stage, wildcards.job)
            return "python" if family is None else interpreter(family)

        return path

    def threads(self, stage: str) -> Callable[[Any], int]:
        """Function of a stage's rule for the processors of a job: of the model's forward pass, of training, or both."""

        def number(wildcards: Any) -> int:
            return job_threads(self.config, stage, wildcards.job)

        return number

    def _family(self, stage: str, job: str) -> str | None:
        """Returns the family of the model that a job runs; None for jobs that run none."""
        runs = runs_model(self.config, stage, job)
        return self.config.models[job.partition("/")[0]].source.family if runs else None

    def _planned(self, stage: str, wildcards: Any) -> dict[str, Any]:
        """Fields of a job: of the plan in memory, or, in a process that runs the job, of the saved one."""
        job = f"{stage}/{wildcards.job}"
        if wildcards.run == self.run:
            return vars(self.plan.jobs[job])
        return read_sealed(self._plan_file(wildcards.run))["jobs"][job]

    def _marker(self, run: str, job: str) -> str:
        return f"{self.results}/runs/{run}/done/{job}"

    def _plan_file(self, run: str) -> Path:
        return self.config.results / "runs" / run / "plan.json"


def claim(results: Path) -> TextIO:
    """Claim a results folder for as long as what this returns is open; the claim ends with the process, too.

    Raises:
        UserError: where it cannot be written, or a run, or a command that removes results, is at work there.
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
        log.warning("%s: cannot be locked (%s): start no second run there", results, error.strerror)
    return file


def refuse_forcing(asked: Any, touch: bool = False) -> None:
    """End the process where Snakemake's settings force rules, or feign them: keys decide, which these leave alone.

    Args:
        asked: `forceall`, `forcerun` and `forcetargets`, as in Snakemake's `DAGSettings`.
        touch: whether Snakemake was asked to mark results as made.
    """
    if touch:
        sys.exit(
            "error: --touch makes no result fresh, for keys decide what runs; 'saelib plan' says what is stale, and why"
        )
    words = {"--forceall": asked.forceall, "--forcerun": asked.forcerun, "--force": asked.forcetargets}
    for word, given in words.items():
        if given:
            # Snakemake would wrap another exception into several lines about an input function.
            sys.exit(
                f"error: {word} makes no result again, for keys decide what runs; "
                "'saelib redo STAGE' (saelib redo --help) makes results stale, and the next run makes them again"
            )


def _put_first(variable: str, folder: Path) -> None:
    """Of the folders in an environment variable, for this process' children."""
    others = [one for one in os.environ.get(variable, "").split(os.pathsep) if one and one != str(folder)]
    os.environ[variable] = os.pathsep.join([str(folder), *others])


def _merged(paths: list[Path], overrides: Mapping[str, Any]) -> Config:
    """One file is checked as it is; several, or overrides from the command line, are merged first."""
    if len(paths) == 1 and not overrides:
        return load_config(paths[0])
    merged: dict[str, Any] = {}
    for layer in (*map(read_yaml, paths), dict(overrides)):
        _merge(merged, layer if isinstance(layer, dict) else {})
    return check_config(merged, " + ".join([*map(str, paths), *(["--config"] if overrides else [])]))


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
