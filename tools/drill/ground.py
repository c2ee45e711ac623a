"""Where cases take place: copies of a finished suite, runs that can be disturbed, and the judgement afterwards."""

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
"""Seconds that a run of the miniature suite may take before it counts as hanging: a busy machine is no defect."""
SAME = "same"
REFUSED = "refused, then same"
UNSEEN = "not noticed, all else same"
"""A damaged result stays as it is, and no other result differs for it."""
DEFECT = "DEFECT"


@dataclass
class Case:
    """One disturbance, and what came of it."""

    name: str
    seed: int
    moment: str = ""
    """What was done, and when."""
    outcome: str = ""
    """`SAME`, `REFUSED`, `UNSEEN`, or `DEFECT` with what is wrong."""
    seconds: float = 0.0
    rng: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Each case draws from its own seed."""
        self.rng = random.Random(f"{self.name} {self.seed}")


class DefectFound(Exception):
    """A run did neither of the two things it may do."""


class TooLate(DefectFound):
    """What was to be disturbed was over already."""


@dataclass(frozen=True)
class Ended:
    """A run that has ended."""

    returncode: int
    words: str

    def check_refusal(self, *expected: str) -> None:
        """Raise `DefectFound` where it did not stop with one of the expected sentences, or with a traceback."""
        if self.returncode == 0:
            raise DefectFound("the run says that it succeeded")
        if "Traceback" in self.words:
            raise DefectFound(f"a traceback: {_last_lines(self.words)}")
        if expected and not any(sentence in self.words for sentence in expected):
            raise DefectFound(f"no clear sentence: {_last_lines(self.words)}")


class Run:
    """A run at work, in a process group of its own."""

    def __init__(self, tree: Tree, env: Mapping[str, str] | None = None) -> None:
        """Start it, with `env` added to its environment."""
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
        """Whether it has ended by itself."""
        return self.process.poll() is not None

    def end(self) -> Ended:
        """Wait for its end. Raises `DefectFound` where it does not come."""
        try:
            returncode = self.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise DefectFound(f"no end after {LONGEST} s: {_last_lines(self._output.read_text())}") from None
        return Ended(returncode, self._output.read_text())

    def until(self, happens: Callable[[], object], every: float = 0.002) -> None:
        """Let it get on until something happens, looked for `every` so many seconds.

        Raises `TooLate` where it ends before.
        """
        while not happens():
            if self.is_over:
                raise TooLate("the run was over before it could be disturbed")
            time.sleep(every)

    def kill_all(self) -> None:
        """The controlling process, and every job that it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Ground:
    """A finished suite and copies of it."""

    def __init__(self, scratch: Path) -> None:
        """Run the suite once, undisturbed, in `scratch`."""
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
        # Again, as every later run: with compiled kernels, so that its stages take the usual time.
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
        """A copy of the finished suite, gone afterwards."""
        tree = self.finished.copy(self.scratch / uuid4().hex[:8])
        try:
            yield tree
        finally:
            for pid in jobs(tree):
                _kill(pid)
            shutil.rmtree(tree.root, ignore_errors=True)

    def settle(self, tree: Tree) -> str:
        """Run the suite to its end and compare; where the run names a file and stops, remove that and run again.

        Raises `DefectFound` for anything else.
        """
        outcome = SAME
        while (done := Run(tree).end()).returncode:
            done.check_refusal()
            files = named_files(tree, done.words)  # one at least is gone each time, so this ends
            if not files:
                raise DefectFound(f"the next run fails and names no file: {_last_lines(done.words)}")
            for file in files:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
            outcome = REFUSED
        self.compare(tree)
        return outcome

    def compare(self, tree: Tree) -> None:
        """Raise `DefectFound` where results differ from the undisturbed ones. Waits for jobs that are at work still."""
        deadline = time.monotonic() + LONGEST
        while jobs(tree) and time.monotonic() < deadline:
            time.sleep(0.1)
        found = tree.hashes()
        other = sorted(name for name in self.wanted.keys() | found.keys() if self.wanted.get(name) != found.get(name))
        if other:
            raise DefectFound(f"results differ: {', '.join(other[:5])}{' and more' if len(other) > 5 else ''}")


def drop(tree: Tree, stage: str, rng: random.Random) -> None:
    """Remove one or two results of a stage, so that the next run has a small part of the suite to make."""
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
    """Processes of a tree's jobs, of one stage or of all."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            script = Path(arguments[1].decode() if len(arguments) > 1 else "")
            if script.parent == tree.root / "scripts" and script.stem.startswith(stage):
                found.append(int(process.name))
        except (OSError, UnicodeDecodeError):  # it has ended, or is another's
            continue
    return found


def named_files(tree: Tree, words: str) -> list[Path]:
    """What lies below the results and is named by the sentences that jobs ended with.

    A sentence may name a second file beside the first: '…/layer_1.safetensors: its checksum is not in layer_1.json'.
    """
    found: dict[Path, None] = {}
    for line in re.findall(r"^(?:saelib|error): (.*)$", words, re.MULTILINE):
        for name in re.findall(r"results/[^\s:,;()']+", line):
            path = tree.root / name
            beside = [path.parent / other for other in re.findall(r"\b[\w.-]+\.json\b", line)]
            found |= dict.fromkeys(one for one in (path, *beside) if one.exists())
    return list(found)


def _stage_seconds(tree: Tree) -> dict[str, float]:
    """How long a job of each stage takes, as Snakemake measured it."""
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
