"""The setting of the cases: copies of a finished suite, runs that can be disturbed, and the comparison afterwards."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from tools.miniature import Tree, make_tree

LONGEST = 1200
"""Seconds after which a run of the miniature suite counts as hanging: many, because a busy machine is no defect."""
SAME = "same"
REFUSED = "refused, then same"
UNSEEN = "not noticed, all else same"
"""Outcome: a damaged result stays as it is, and no other result differs."""
DEFECT = "DEFECT"


@dataclass
class Case:
    """One disturbance and its outcome."""

    name: str
    seed: int
    moment: str = ""
    """A description of the disturbance and its moment."""
    outcome: str = ""
    """`SAME`, `REFUSED`, `UNSEEN`, or `DEFECT` with a description."""
    seconds: float = 0.0
    rng: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Each case draws from its own seed."""
        self.rng = random.Random(f"{self.name} {self.seed}")


class DefectFound(Exception):
    """A run neither reproduced the results nor stopped with a clear refusal."""


class TooLate(DefectFound):
    """The run or job was over before it could be disturbed."""


@dataclass(frozen=True)
class Ended:
    """A run that has ended."""

    returncode: int
    words: str

    def check_refusal(self, *expected: str) -> None:
        """Raises `DefectFound` if the run ended in a traceback, or without one of the expected sentences."""
        if self.returncode == 0:
            raise DefectFound("the run says that it succeeded")
        if "Traceback" in self.words:
            raise DefectFound(f"a traceback: {_last_lines(self.words)}")
        if expected and not any(sentence in self.words for sentence in expected):
            raise DefectFound(f"no clear sentence: {_last_lines(self.words)}")


class Run:
    """A run in progress, in its own process group."""

    def __init__(self, tree: Tree, env: Mapping[str, str] | None = None) -> None:
        """Starts the run, with `env` added to its environment."""
        self.tree = tree
        self._output = tree.root / f"output-{uuid4().hex[:8]}.txt"
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor"]
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=tree.root,
                env=tree.env | dict(env or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_over(self) -> bool:
        """Checks whether the run has ended by itself."""
        return self.process.poll() is not None

    def end(self) -> Ended:
        """Waits for the end of the run. Raises `DefectFound` if it does not end."""
        try:
            returncode = self.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise DefectFound(f"no end after {LONGEST} s: {_last_lines(self._output.read_text())}") from None
        return Ended(returncode, self._output.read_text())

    def until(self, happens: Callable[[], object], every: float = 0.002) -> None:
        """Waits until something happens, and checks for it `every` so many seconds.

        Raises `TooLate` if the run ends before.
        """
        while not happens():
            if self.is_over:
                raise TooLate("the run was over before it could be disturbed")
            time.sleep(every)

    def kill_all(self) -> None:
        """Kills the controlling process and every job that it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Ground:
    """A finished suite and copies of it."""

    def __init__(self, scratch: Path) -> None:
        """Runs the suite once, undisturbed, in `scratch`."""
        self.scratch = scratch
        self.finished = make_tree(scratch / "finished")
        config = self.finished.config
        # Long enough to be killed between checkpoints.
        config["train"] |= {"steps": 240, "checkpoint_every": 20, "record_every": 60}
        # One model trains from its store, the other straight from its forward passes, two layers at once.
        config["models"]["calm"]["representative_layer"] = 1
        config["models"]["severe"] |= {"train_layers": [1, 2], "stream": {"buffer_rows": 512}}
        self.finished.config = config
        self._run_undisturbed()
        # Run again, now with compiled kernels, so that stages take the usual time.
        shutil.rmtree(self.finished.results)
        self._run_undisturbed()
        self.wanted = self.finished.hashes()
        self.seconds = _stage_seconds(self.finished)

    def _run_undisturbed(self) -> None:
        done = Run(self.finished).end()
        if done.returncode:
            raise DefectFound(f"the undisturbed run failed: {_last_lines(done.words)}")

    @contextmanager
    def copy(self) -> Iterator[Tree]:
        """Copies the finished suite; the copy is removed afterwards."""
        tree = self.finished.copy(self.scratch / uuid4().hex[:8])
        try:
            yield tree
        finally:
            for pid in jobs(tree):
                _kill(pid)
            shutil.rmtree(tree.root, ignore_errors=True)

    def settle(self, tree: Tree) -> str:
        """Runs the suite to its end and compares. If the run stops and names a file, removes the file and runs again.

        Raises `DefectFound` for anything else.
        """
        outcome = SAME
        while (done := Run(tree).end()).returncode:
            done.check_refusal()
            files = named_files(tree, done.words)  # at least one is removed each time, so this ends
            if not files:
                raise DefectFound(f"the next run fails and names no file: {_last_lines(done.words)}")
            for file in files:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
            outcome = REFUSED
        self.compare(tree)
        return outcome

    def compare(self, tree: Tree) -> None:
        """Raises `DefectFound` if results differ from the undisturbed ones. Waits for running jobs first."""
        deadline = time.monotonic() + LONGEST
        while jobs(tree) and time.monotonic() < deadline:
            time.sleep(0.1)
        found = tree.hashes()
        other = sorted(name for name in self.wanted.keys() | found.keys() if self.wanted.get(name) != found.get(name))
        if other:
            raise DefectFound(f"results differ: {', '.join(other[:5])}{' and more' if len(other) > 5 else ''}")


def drop(tree: Tree, stage: str, rng: random.Random) -> None:
    """Removes one or two results of a stage, so the next run recomputes a small part of the suite."""
    patterns = {
        "extract": "extract/*/*.zarr",
        "stats": "stats/*/*.json",
        "init_death": "init_death/*/*.json",
        "theory": "theory/*.json",
        "train": "train/*/*/*/sweep.json",
        "report": "report.json",
    }
    found = sorted(tree.results.glob(patterns[stage]))
    for path in rng.sample(found, min(len(found), rng.choice((1, 2)))):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def jobs(tree: Tree, stage: str = "") -> list[int]:
    """Returns the processes of a tree's jobs, of one stage or of all."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            script = Path(arguments[1].decode() if len(arguments) > 1 else "")
            if script.parent == tree.root / "scripts" and script.stem.startswith(stage):
                found.append(int(process.name))
        except (OSError, UnicodeDecodeError):  # it has ended, or belongs to another user
            continue
    return found


def named_files(tree: Tree, words: str) -> list[Path]:
    """Returns the files below the results that the jobs' error messages name.

    A message may name a second file after the first: '…/layer_1.safetensors: its checksum is not in layer_1.json'.
    """
    found: dict[Path, None] = {}
    for line in re.findall(r"^(?:saelib|error): (.*)$", words, re.MULTILINE):
        for name in re.findall(r"results/[^\s:,;()']+", line):
            path = tree.root / name
            beside = [path.parent / other for other in re.findall(r"\b[\w.-]+\.json\b", line)]
            found |= dict.fromkeys(one for one in (path, *beside) if one.exists())
    return list(found)


def _stage_seconds(tree: Tree) -> dict[str, float]:
    """Returns how long a job of each stage takes, as measured by Snakemake."""
    found: dict[str, float] = {}
    for file in tree.results.glob("runs/*/benchmarks/**/*.tsv"):
        stage = file.relative_to(tree.results).parts[3]
        found[stage] = float(file.read_text().splitlines()[1].split("\t")[0])
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _last_lines(words: str) -> str:
    return " | ".join(line.strip() for line in words.splitlines() if line.strip())[-700:]
