"""Compares a training step of saelib, of a plain eager script and of other libraries with one encoder matrix product.

Each contender runs in its own process, and each other library in its own environment, which
`python -m benchmarks.peers` creates. All train on the same batches, taking turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.worker import Setting
from benchmarks.peers import PEERS, python_of
from benchmarks.timing import command_line, environment, environment_line, show

ROOT = Path(__file__).parents[1]
PACKAGES = ("numpy", "numba", "torch")
AVX2_ONLY = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+popcnt,+lzcnt"}
LARGE = Setting(d_in=768, d_sae=8192, k=64, batch_size=4096, threads=2, dead=0, k_aux=384)
SMALL = replace(LARGE, d_in=50, d_sae=100, k=5, k_aux=25, learning_rate=1e-3)


def write_batches(setting: Setting, folder: Path) -> str:
    """Writes four batches of Gaussian activations around a mean as long as their spread (gamma = 1)."""
    rng = np.random.default_rng(0)
    shape = (4, setting.batch_size, setting.d_in)
    batches = rng.standard_normal(shape, dtype=np.float32) + rng.standard_normal(setting.d_in, dtype=np.float32)
    np.save(folder / "batches.npy", batches)
    return str(folder / "batches.npy")


@dataclass(frozen=True)
class Case:
    """A setting, its contenders, and how many steps each makes per turn."""

    title: str
    setting: Setting
    contenders: dict[str, dict[str, Any]]
    """Name -> changes to the setting."""
    steps: int
    write: Callable[[Setting, Path], str] = write_batches
    """Writes the batches below a folder, and returns their file."""


def cases() -> dict[str, Case]:
    everyone = {name: {} for name in ("saelib", "floor", "eager", *PEERS)}
    two = {"saelib": {}, "eager": {}}
    three = {**two, "saelens": {}}
    return {
        "topk": Case("TopK", LARGE, everyone, 5),
        "auxk": Case("TopK with AuxK on 4,096 dead latents", replace(LARGE, dead=4096), everyone, 3),
        "batch_topk": Case("BatchTopK", replace(LARGE, architecture="batch_topk"), three, 3),
        "matryoshka": Case(
            "Matryoshka BatchTopK, five nested SAEs", replace(LARGE, architecture="matryoshka_batch_topk"), three, 3
        ),
        "torch_path": Case("TopK, saelib without its kernels", LARGE, {"saelib": {"path": "torch"}, "eager": {}}, 3),
        "float32": Case("TopK", LARGE, {"saelib": {}, "saelib float32": {"selection": "float32"}}, 5),
        "small": Case("small TopK", SMALL, two, 100),
        "small_many": Case("small TopK, per SAE", SMALL, {"saelib x 64": {"saes": 64}, "eager": {}}, 10),
    }


def main(argv: list[str]) -> None:
    parser = command_line("training", __doc__)
    names = list(cases())
    parser.add_argument("--case", choices=names, action="append", help="a case; may be repeated; default: all")
    parser.add_argument("--quick", action="store_true", help="only saelib, the eager script and the floor, on `topk`")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each contender")
    parser.add_argument("--avx2", action="store_true", help="restrict saelib's kernels to AVX2")
    options = parser.parse_args(argv)

    chosen = ["topk"] if options.quick else options.case or names
    found = {name: run(cases()[name], options) for name in chosen}
    lines = [line for name in chosen for line in table(cases()[name], found[name])]
    report: dict[str, object] = {"threads": options.threads, "environment": environment(*PACKAGES)}
    show(report | headline(found) | {"cases": found}, [*lines, environment_line(*PACKAGES)], options.json)


def run(case: Case, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns each contender's milliseconds per step (of one SAE), by the clock and of CPUs, peak memory and label."""
    setting = replace(case.setting, threads=options.threads)
    wanted = [name for name in case.contenders if not (options.quick and name in PEERS)]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        setting = replace(setting, batches=case.write(setting, Path(folder)))
        running = {}
        for name in wanted:
            command = command_of(name)
            if command is None:
                print(f"{name}: not installed; python -m benchmarks.peers {name}", file=sys.stderr)
                continue
            own = replace(setting, **case.contenders[name])
            running[name] = stack.enter_context(Contender(command, own, AVX2_ONLY if options.avx2 else {}))
        for contender in running.values():
            contender.steps(2)  # compile, fill caches
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
        for _ in range(options.rounds):
            for name, contender in running.items():
                answers[name].append(contender.steps(case.steps))
        return {name: summary(of_one, running[name].setting.saes) for name, of_one in answers.items()}


class Contender:
    """A process that makes training steps on request."""

    def __init__(self, command: list[str], setting: Setting, environment: dict[str, str]) -> None:
        """Starts the process with `command`; `environment` is added to this process's."""
        self.setting = setting
        self._process = subprocess.Popen(
            [*command, json.dumps(asdict(setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("VERBOSE") else None,
            text=True,
            cwd=ROOT,
            env=os.environ | environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(setting.threads)},
        )

    def steps(self, number: int) -> dict[str, Any]:
        """Times `number` steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # its last output explains more
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print during their import
                return json.loads(line)
        raise RuntimeError(f"a contender stopped:\n{self._process.communicate()[1]}")

    def __enter__(self) -> "Contender":
        """Returns the contender, which is already running."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the process."""
        self._process.kill()
        self._process.communicate()


def command_of(name: str) -> list[str] | None:
    """Returns the command that starts a contender; None if its environment is missing."""
    python = python_of(name) if name in PEERS else Path(sys.executable)
    script = "saelib" if name.startswith("saelib") else name
    return [str(python), "-m", f"benchmarks.contenders.step_{script}"] if python else None


def summary(answers: list[dict[str, Any]], saes: int) -> dict[str, Any]:
    seconds = [value for answer in answers for value in answer["seconds"]]
    return {
        "ms": 1e3 * statistics.median(seconds) / saes,
        "ms_range": [1e3 * min(seconds) / saes, 1e3 * max(seconds) / saes],
        "cpu_ms": 1e3 * statistics.median(answer["cpu"] for answer in answers) / saes,
        "peak_mb": max(answer["peak_mb"] for answer in answers),
        "label": answers[0]["label"],
    }


def table(case: Case, found: dict[str, dict[str, Any]]) -> list[str]:
    """Formats the lines to print; ratios are relative to saelib, the first contender."""
    s = case.setting
    first = next(iter(found.values()))["ms"]
    lines = [f"{case.title}: d_in {s.d_in}, d_sae {s.d_sae}, k {s.k}, batch {s.batch_size}, float32"]
    for name, figures in found.items():
        low, high = figures["ms_range"]
        lines.append(
            f"{name:>20} {figures['ms']:9.2f} ms a step ({low:.2f} to {high:.2f})"
            f"  {figures['ms'] / first:6.2f} x saelib  {figures['peak_mb']:6.0f} MB  {figures['label']}"
        )
    return lines


def headline(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, object]:
    """Returns the figures of `topk` under fixed names, for programs."""
    topk = found.get("topk", {})
    names = {"ours_ms": "saelib", "eager_ms": "eager", "floor_ms": "floor"}
    figures: dict[str, object] = {key: topk[name]["ms"] for key, name in names.items() if name in topk}
    if "saelib" in topk:
        figures["peak_memory_mb"] = topk["saelib"]["peak_mb"]
        figures["peers"] = {name: topk[name] for name in PEERS if name in topk}
    return figures
