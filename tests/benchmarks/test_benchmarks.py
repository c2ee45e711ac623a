"""The benchmarks run and say what they measured. How fast is theirs to print, not a test's to judge."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def benchmark(*arguments: str) -> Any:
    command = [sys.executable, "-m", "benchmarks", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_stats() -> None:
    report = benchmark("stats", "--tokens", "3000", "--d-in", "64", "--repeats", "1", "--memory-tokens", "20000")
    assert {"floor", "one pass", "textbook"} <= set(report["cpu_seconds"])
    assert report["peak_bytes"] >= 0
    assert report["environment"]["blas"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    command = [sys.executable, "-m", "benchmarks", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert all(name in done.stderr for name in ("stats", "init_death", "extract"))
