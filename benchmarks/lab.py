"""Measures the training of small SAEs on synthetic data: steps of one SAE per second, the generator included.

saelib trains many SAEs at once on one stream. The others train one SAE, on batches that were drawn beforehand. Where
other processes use the CPUs, compare the CPU time of `--threads 1`.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.worker import Setting
from benchmarks.timing import command_line, environment, environment_line, show
from benchmarks.training import PACKAGES, SMALL, Case, run
from saelib.config.synthetic import SyntheticConfig
from saelib.synthetic import make_data

SAES = 64


def main(argv: list[str]) -> None:
    parser = command_line("lab", __doc__)
    parser.add_argument("--quick", action="store_true", help="only saelib and the eager script")
    parser.add_argument("--auxk", action="store_true", help="train with AuxK on half of the latents, which never fire")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of each contender")
    parser.add_argument("--avx2", action="store_true", help="restrict saelib's kernels to AVX2")
    options = parser.parse_args(argv)
    others = ("eager",) if options.quick else ("floor", "eager", "saelens")
    setting = replace(SMALL, dead=SMALL.d_sae // 2 if options.auxk else 0)
    found = run(case(setting, SAES, others), options)
    rates = {name: 1e3 / figures["ms"] for name, figures in found.items()}
    report = {f"{'ours' if name == 'population' else name}_steps_per_s": rate for name, rate in rates.items()}
    report |= {"threads": options.threads, "saes": SAES, "contenders": found, "environment": environment(*PACKAGES)}
    show(report, [*table(SMALL, rates, found), environment_line(*PACKAGES)], options.json)


def case(setting: Setting, saes: int, others: tuple[str, ...]) -> Case:
    """The comparison of `training`, with data of the lab."""
    contenders: dict[str, dict[str, Any]] = {"population": {"saes": saes}, **{name: {} for name in others}}
    return Case("small TopK on synthetic data, per SAE", setting, contenders, steps=20, write=write_batches)


def write_batches(setting: Setting, folder: Path) -> str:
    """Writes four batches of the lab's data at gamma 5."""
    data, rng = make_data(SyntheticConfig(d_in=setting.d_in, gamma=5), seed=0), np.random.default_rng(0)
    np.save(folder / "batches.npy", np.stack([data.sample(setting.batch_size, rng) for _ in range(4)]))
    return str(folder / "batches.npy")


def table(setting: Setting, rates: dict[str, float], found: dict[str, dict[str, Any]]) -> list[str]:
    """Formats the lines to print."""
    s, ours = setting, rates["population"]
    lines = [f"d_in {s.d_in}, d_sae {s.d_sae}, k {s.k}, batch {s.batch_size}, float32; steps of one SAE per second"]
    for name, rate in rates.items():
        low, high = (1e3 / ms for ms in reversed(found[name]["ms_range"]))
        cpu = found[name]["cpu_ms"]
        lines.append(
            f"{name:>12} {rate:8.0f} ({low:.0f} to {high:.0f}; {cpu:.2f} CPU-ms a step)"
            f"  saelib makes {ours / rate:6.2f} x as many"
        )
    return lines
