"""Measures robustly on a busy machine: CPU seconds of tasks that take turns, and memory above a baseline."""

import argparse
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from threadpoolctl import threadpool_info

Task = Callable[[], object]


def cpu_seconds() -> float:
    """Returns the CPU time so far of all threads of this process and of its finished children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def median_cpu(tasks: dict[str, Task], repeats: int = 3) -> dict[str, float]:
    """Measures the median CPU seconds of each task over `repeats` rounds in which the tasks take turns.

    CPU time does not include other processes, and taking turns spreads their remaining influence (caches, clock speed)
    evenly. Warm the tasks up first if compiling or reading from disk should not be measured.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = cpu_seconds()
            task()
            seconds[name].append(cpu_seconds() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory(task: Task, interval: float = 0.005) -> int:
    """Measures the peak of private memory (without mapped files) that `task` adds, in bytes.

    Sampled every `interval` seconds; Linux only.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = peak = _private_memory()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(interval):
            peak = max(peak, _private_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        task()
    finally:
        done.set()
        watcher.join()
    return peak - before


def environment(*packages: str) -> dict[str, str]:
    """Describes what the figures depend on: CPU, cores, BLAS and its kernels, versions of Python and `packages`."""
    pools = [
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')} x{pool['num_threads']}"
        for pool in threadpool_info()
    ]
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"cpu": _cpu_name(), "cores": str(os.cpu_count()), "blas": "; ".join(pools)} | {
        "python": platform.python_version(),
        **versions,
    }


def environment_line(*packages: str) -> str:
    """Formats `environment` on one line."""
    return ", ".join(f"{name} {value}" for name, value in environment(*packages).items())


def command_line(name: str, description: str | None) -> argparse.ArgumentParser:
    """Makes the parser of a benchmark's options, with `--json`, which `show` obeys."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=description)
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    return parser


def show(report: Mapping[str, object], lines: list[str], as_json: bool) -> None:
    """Prints a benchmark's figures: as JSON, or as the given lines."""
    print(json.dumps(report, indent=1) if as_json else "\n".join(lines))


def _private_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon: memory can be measured on Linux only")


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
