"""The miniature suite on the Slurm that tools/slurm/start.sh starts, and hands on its jobs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tools.miniature import PROJECT, Tree, make_tree

PATIENCE = 600
"""Seconds to wait before a run counts as hung."""
# What the documentation says.
COMMAND = ("--cores", "all", "--profile", "slurm")

# The same Snakemake, but for its naps: the plugin's grow by 10 s whenever no job has ended, which no setting changes.
QUICK = """
import asyncio, sys
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
async def nap(executor):
    await asyncio.sleep(0.5)
RemoteExecutor.sleep = nap
main(sys.argv[1:])
"""

# Python runs this file before everything else, where it lies on the path: in every job of the suite.
JOB_START = """
import os, pathlib, sys, time
script = pathlib.Path((sys.orig_argv[1:2] or [""])[0])
if script.parent.name == "scripts" and "SLURM_JOB_ID" in os.environ:
    place = pathlib.Path("seen", script.stem)
    place.mkdir(parents=True, exist_ok=True)
    (place / os.environ["SLURM_JOB_ID"]).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    if pathlib.Path("hog").exists():
        hog = b"x" * (500 << 20)
        time.sleep(4)
    deadline = time.monotonic() + 600
    while pathlib.Path("hold", script.stem).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
"""


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def is_ours() -> bool:
    """Tells whether the Slurm here is the one of tools/slurm/start.sh: these tests must not run on a shared cluster."""
    try:
        return "= saelib\n" in slurm("scontrol", "show", "config")
    except (OSError, subprocess.SubprocessError):
        return False


def wait(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.2)


@dataclass
class Run:
    """A controller at work."""

    process: subprocess.Popen[bytes]
    log: Path

    def end(self) -> str:
        """Waits until it has succeeded, and returns its output."""
        try:
            code = self.process.wait(PATIENCE)
        finally:
            self.kill()
        words = self.log.read_text()
        assert code == 0, words[-6000:]
        return words

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Suite:
    """A tree whose jobs go to Slurm."""

    tree: Tree
    runs: list[Run] = field(default_factory=list)

    slurm = staticmethod(slurm)
    wait = staticmethod(wait)

    @property
    def root(self) -> Path:
        return self.tree.root

    def start(self, *, quick: bool = True) -> Run:
        """Starts the documented command; with `quick`, it asks for the states of its jobs twice a second."""
        snakemake = ("-c", QUICK) if quick else ("-m", "snakemake")
        log = self.root / f"run_{time.monotonic_ns()}.log"
        command = [sys.executable, *snakemake, *COMMAND]
        with log.open("wb") as words:
            process = subprocess.Popen(
                command, cwd=self.root, env=self.tree.env, start_new_session=True, stdout=words, stderr=words
            )
        self.runs.append(Run(process, log))
        return self.runs[-1]

    def seen(self, stage: str) -> list[str]:
        """Slurm's numbers of the jobs of a stage that have started, in order."""
        return sorted((file.name for file in (self.root / "seen" / stage).glob("*")), key=int)

    def hold(self, stage: str) -> None:
        """Lets the jobs of a stage start and then wait."""
        (self.root / "hold").mkdir(exist_ok=True)
        (self.root / "hold" / stage).touch()

    def release(self, stage: str) -> None:
        (self.root / "hold" / stage).unlink()

    def forget(self, stage: str, what: str = "") -> None:
        """Remove results."""
        target = self.root / "results" / ("report.json" if stage == "report" else stage) / what
        shutil.rmtree(target) if target.is_dir() else target.unlink()


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The miniature suite, run on this machine without Slurm, ready for Slurm. Not to be changed."""
    if not is_ours():
        pytest.skip("not the Slurm of tools/slurm/start.sh: `make test-slurm` starts it")
    tree = make_tree(tmp_path_factory.mktemp("slurm") / "local")
    shutil.copytree(PROJECT / "profiles", tree.root / "profiles")
    (tree.root / "slurm").symlink_to("profiles/slurm")
    tree.run()
    (tree.root / "sitecustomize.py").write_text(JOB_START)
    return tree


@pytest.fixture
def suite(local: Tree, tmp_path: Path) -> Iterator[Suite]:
    """A copy of the finished suite."""
    suite = Suite(local.copy(tmp_path / "suite"))
    yield suite
    for run in suite.runs:  # first of all, lest they submit what is cancelled
        run.kill()
    slurm("scancel", "--user=root")
    # Refused for nodes that are up.
    subprocess.run(["scontrol", "update", "nodename=n[1-2]", "state=resume"], capture_output=True, timeout=30)
