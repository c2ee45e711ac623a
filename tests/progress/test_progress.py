"""Rates of progress, and what they leave out."""

import logging
import subprocess
import sys

import pytest

from saelib import progress

COMPILES = """
import logging, sys, time
logging.basicConfig(level="INFO", format="%(message)s")
from numba import njit
from saelib import progress
from saelib.progress import announce_compiling
announce_compiling()
announce_compiling()
progress.LINE_EVERY_SECONDS = 0
with progress.progress("work", 10, "steps", logging.getLogger("t")) as advance:
    before = progress._left_out
    inner = njit(lambda x: x + 1)
    njit(lambda x: inner(x) * 2)(3)
    first = progress._left_out
    njit(lambda x: x - 1)(3)
    print(before, first, progress._left_out)
    advance(10)
"""


def test_seconds_that_were_left_out_do_not_count(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """50 s of compiling before 20 steps of 0.1 s: 10 steps a second, and not 0.4."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    progress.leave_out(30)  # before it began, which is no matter to it
    with progress.progress("train", 200, "steps", logging.getLogger("test")) as advance:
        now[0] += 50
        progress.leave_out(50)
        now[0] += 2
        advance(20)
        now[0] += 50
        advance(1)
    first, second = caplog.messages
    assert first == "train: 20 of 200 steps, 10 steps/s, 18 s left"
    assert second == "train: 21 of 200 steps, 0.40 steps/s, 443 s left"


def test_compiling_is_said_once_and_left_out():
    done = subprocess.run([sys.executable, "-c", COMPILES], capture_output=True, text=True, check=True)
    before, first, second = map(float, done.stdout.split())
    assert before == 0 < first < second
    assert done.stderr.count("compiling the kernels for this CPU (once per machine)") == 1
    assert done.stderr.index("compiling") < done.stderr.index("work: 10 of 10 steps")


@pytest.mark.parametrize("module", ["saelib.sae.kernels.compiled", "saelib.stats.kernels", "saelib.init_death.kernels"])
def test_every_module_with_kernels_announces(module: str):
    code = f"import {module}; from saelib.progress import announce_compiling as a; print(a.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
