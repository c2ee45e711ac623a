"""Measures the effect of seeds: trains the suite's SAEs from other initial weights, on other orders of the same rows.

Stores and statistics are those of the config's results. They must exist, and are not changed.
"""

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.timing import command_line, environment, environment_line, show
from saelib.config import Config, load_config
from saelib.files.sealed import read_sealed
from saelib.stats import load_arrays
from saelib.store import open_store
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, Subject
from saelib.train.training import train_from_store

PACKAGES = ("numpy", "numba", "torch")
FIGURES = ("learning_rate", "dead_relu", "dead_total", "token_fvu_median", "variance_explained")


@dataclass(frozen=True)
class Spread:
    """Figures of one variant on one layer, by seed."""

    subject: Subject
    figures: dict[str, list[float]]


def main(argv: list[str]) -> None:
    parser = command_line("seeds", __doc__)
    parser.add_argument("--configfile", type=Path, default=Path("workflow_config.yaml"))
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, starting from the config's")
    parser.add_argument("--model", action="append", help="a model of the suite; may be repeated; default: all")
    options = parser.parse_args(argv)
    config = load_config(options.configfile)
    torch.set_num_threads(config.train.threads)
    lines = [f"{'':40} {'dead':>22} {'dead by ReLU':>22} {'typical FVU':>24} {'variance explained':>26}  rates"]
    report: dict[str, object] = {}
    for name in options.model or config.models:
        for layer in config.models[name].trained_layers:
            for variant in config.train.variants:
                found = train(config, Subject(name, layer, variant), options.seeds)
                report[str(found.subject)] = found.figures
                lines.append(line(found))
                print(lines[-1], file=sys.stderr)
    show(report | {"environment": environment(*PACKAGES)}, [*lines, environment_line(*PACKAGES)], options.json)


def train(config: Config, subject: Subject, seeds: int) -> Spread:
    """Trains a sweep for each seed, in a folder that is removed afterwards."""
    store = open_store(config.store_path(subject.model, subject.layer))
    arrays = load_arrays(config.stats_path(subject.model, subject.layer))
    data = LayerData(store.train, store.heldout, arrays, store.heldout.examples())
    figures: dict[str, list[float]] = {name: [] for name in FIGURES}
    for seed in range(config.seed, config.seed + seeds):
        with tempfile.TemporaryDirectory() as folder:
            variant = config.train.variants[subject.variant]
            sweep = start_sweep(data, config.train, variant, subject=subject, seed=seed)
            train_from_store(sweep, store.train, Destination(Path(folder), f"seed {seed}"))
            found = read_sealed(Path(folder) / "sweep.json")
        best = next(run for run in found["runs"] if run["learning_rate"] == found["best_learning_rate"])
        for name in FIGURES:
            figures[name].append(best[name])
    return Spread(subject, figures)


def line(found: Spread) -> str:
    """Formats the median and range of the figures."""
    figures, subject = found.figures, found.subject
    rates = ", ".join(
        f"{rate:g} x {figures['learning_rate'].count(rate)}" for rate in sorted(set(figures["learning_rate"]))
    )
    return (
        f"{f'{subject.model} {subject.layer} {subject.variant}':40} {spread(figures['dead_total'], 100, 1):>20} % "
        f"{spread(figures['dead_relu'], 100, 1):>20} % {spread(figures['token_fvu_median'], 1, 3):>24} "
        f"{spread(figures['variance_explained'], 1, 3):>26}  {rates}"
    )


def spread(values: list[float], factor: float, digits: int) -> str:
    """Formats the median, the smallest and the largest value: '0.5 (0.4 to 0.7)'."""
    middle, low, high = (factor * value for value in (statistics.median(values), min(values), max(values)))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
