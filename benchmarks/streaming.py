"""Compares training straight from a model's forward passes with training from stores, and with a floor.

It prints two tables. The first shows the costs of one pass over the tokens; the floor is the forward passes alone plus
the steps alone, on rows in memory. The second shows the error by size of the shuffle buffer, relative to a store, which
mixes all examples. Tokens of one example are alike, and a buffer mixes only the examples that it holds.
"""

import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from benchmarks.timing import Task, command_line, environment, environment_line, median_cpu, peak_memory, show
from saelib.activations.rows import ArrayRows, Rows
from saelib.config import Config, TrainConfig, VariantConfig, load_config
from saelib.config.sites import Layer
from saelib.extract.batches import Batch, open_batches
from saelib.extract.stage import extract
from saelib.files.sealed import read_sealed
from saelib.store import Split, open_store
from saelib.train.batches_from_model import StreamedBatches
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, RunningSweep, Subject
from saelib.train.training import train_from_store, train_from_stream

PACKAGES = ("torch", "transformers", "zarr", "numpy", "numba")
RATE = 0.003
"""The middle learning rate of the default suite."""


@dataclass(frozen=True)
class Setting:
    """A model of a suite, some of its layers, and the number of tokens to train on."""

    config: Config
    """The suite, with as many tokens as are trained on, each once."""
    name: str
    layers: tuple[int, ...]
    buffer_rows: int

    @property
    def tokens(self) -> int:
        """Tokens to train on, each once."""
        return self.config.extraction.tokens

    def train(self, batch_size: int) -> TrainConfig:
        """One pass over the tokens at one learning rate, with the suite's sizes."""
        steps = self.tokens // batch_size
        few: dict[str, Any] = {"batch_size": batch_size, "steps": steps, "record_every": steps}
        few |= {"checkpoint_every": steps, "learning_rates": (RATE,), "dead_after_examples": self.tokens}
        return self.config.train.model_copy(update=few)

    def batches(self, source: Any, d_in: int, batch_size: int, buffer_rows: int, seed: int = 0) -> StreamedBatches:
        """Opens a source's batches through a shuffle buffer, rounded around 0."""
        offsets: dict[Layer, NDArray[np.float32] | None] = {layer: np.zeros(d_in, np.float32) for layer in self.layers}
        sizes: dict[str, Any] = {"batch_size": batch_size, "buffer_rows": buffer_rows, "seed": seed}
        return StreamedBatches(source, offsets, name=self.name, threads=self.config.extraction.threads, **sizes)

    def sweep(
        self, rows: Rows, heldout: Rows, output: Path, layer: int, train: TrainConfig, variant: str = "", seed: int = 0
    ) -> tuple[RunningSweep, Destination]:
        """A variant on a layer, the baseline or `auxk`, and where its results go."""
        data = LayerData(rows, heldout, {"mean": np.zeros(rows.shape[1])})
        chosen = VariantConfig.model_validate({"dead_latents": variant or "none"})
        subject = Subject(self.name, layer, variant or "baseline")
        sweep = start_sweep(data, train, chosen, subject=subject, seed=seed, device="cpu")
        return sweep, Destination(output / f"{layer}{variant}", "benchmark")


@dataclass(frozen=True)
class Recorded:
    """A model's activations, kept in memory: repeated batches cost nothing."""

    train: list[Batch]
    heldout: list[Batch]

    def __call__(self, split: Split, start: int = 0) -> Iterator[Batch]:
        """As `OpenBatches`."""
        yield from (self.train if split == "train" else self.heldout)[start:]

    def rows(self, split: Split, layer: int) -> NDArray[np.float32]:
        """[tokens, d_in]."""
        return np.concatenate([batch.layers[layer] for batch in self(split)])


def main(argv: list[str]) -> None:
    parser = command_line("streaming", __doc__)
    parser.add_argument("--configfile", type=Path, default=Path("workflow_config.yaml"))
    parser.add_argument("--model", default="all-minilm-l6-v2", help="a model of the suite")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 6])
    parser.add_argument(
        "--tokens", type=int, default=32_768, help="tokens to train on; at most as many as the data have"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="for the second table")
    parser.add_argument("--seeds", type=int, default=5, help="for the second table")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # a waiting thread would burn CPU time, which would count as work
    logging.set_verbosity_error()
    config = load_config(options.configfile)
    extraction = config.extraction.model_copy(update={"tokens": options.tokens})
    config = config.model_copy(update={"extraction": extraction})
    setting = Setting(config, options.model, tuple(options.layers), options.tokens // 4)
    recorded = record(setting)
    with tempfile.TemporaryDirectory() as parent:
        costs = measure_costs(setting, recorded, Path(parent), options.repeats)
        errors = measure_errors(setting, recorded, Path(parent), options.batch_size, options.seeds)
    lines = [*cost_lines(setting, costs), "", *error_lines(setting, errors), environment_line(*PACKAGES)]
    show({"costs": costs, "errors": errors, "environment": environment(*PACKAGES)}, lines, options.json)


def record(setting: Setting) -> Recorded:
    batches = open_batches(setting.name, setting.config, setting.layers)
    wanted: dict[Split, int] = {"train": setting.tokens, "heldout": setting.config.extraction.heldout_tokens}
    kept: dict[Split, list[Batch]] = {"train": [], "heldout": []}
    for split, tokens in wanted.items():
        for batch in batches(split):
            kept[split].append(batch)
            if sum(len(one.example) for one in kept[split]) >= tokens:
                break
    return Recorded(kept["train"], kept["heldout"])


def measure_costs(setting: Setting, recorded: Recorded, parent: Path, repeats: int) -> dict[str, Any]:
    """Measures CPU seconds, memory above the start, and bytes of stores for one pass: two variants on every layer."""
    tasks, stores = cost_tasks(setting, recorded, parent)
    tasks["steps alone"]()  # compiles
    seconds = median_cpu(tasks, repeats)
    floor = seconds["forward passes alone"] + seconds["steps alone"]
    disk = sum(file.stat().st_size for file in stores.rglob("*") if file.is_file())
    memory = {name: peak_memory(tasks[name], interval=0.02) for name in ("straight from the model", "through stores")}
    return {"cpu_seconds": seconds, "floor": floor, "memory": memory, "disk": disk}


def cost_tasks(setting: Setting, recorded: Recorded, parent: Path) -> tuple[dict[str, Task], Path]:
    """Returns the tasks, and the folder in which one of them leaves its stores."""
    config, stores = setting.config, parent / "stores"
    train = setting.train(config.train.batch_size)
    rows: dict[Layer, ArrayRows] = {
        layer: ArrayRows(recorded.rows("train", layer), "memory") for layer in setting.layers
    }
    heldout = {layer: ArrayRows(recorded.rows("heldout", layer), "memory") for layer in setting.layers}
    paths: dict[Layer, Path | str] = {layer: stores / f"layer_{layer}.zarr" for layer in setting.layers}

    def sweeps() -> dict[RunningSweep, Destination]:
        torch.set_num_threads(config.train.threads)
        folder = Path(tempfile.mkdtemp(dir=parent))
        return dict(
            setting.sweep(rows[layer], heldout[layer], folder, layer, train, variant)
            for layer in setting.layers
            for variant in ("", "auxk")
        )

    def forward() -> None:
        done = 0
        for batch in open_batches(setting.name, config, setting.layers)("train"):
            done += len(batch.example)
            if done >= setting.tokens:
                break

    def steps() -> None:
        for sweep, destination in sweeps().items():
            train_from_store(sweep, rows[sweep.subject.layer], destination)

    def streamed() -> None:
        batches = open_batches(setting.name, config, setting.layers)
        width = rows[setting.layers[0]].shape[1]
        train_from_stream(
            sweeps(), setting.batches(batches, width, train.batch_size, setting.buffer_rows), setting.name
        )

    def stored() -> None:
        extract(setting.name, config, dict.fromkeys(setting.layers, tempfile.mkdtemp(dir=parent)), paths)
        for sweep, destination in sweeps().items():
            train_from_store(sweep, open_store(paths[sweep.subject.layer]).train, destination)

    tasks: dict[str, Task] = {
        "forward passes alone": forward,
        "steps alone": steps,
        "straight from the model": streamed,
        "through stores": stored,
    }
    return tasks, stores


def measure_errors(
    setting: Setting, recorded: Recorded, parent: Path, batch_size: int, seeds: int
) -> list[dict[str, Any]]:
    """Measures the first layer's held-out error by size of the buffer, relative to a store's, for each seed."""
    layer = setting.layers[0]
    setting = Setting(setting.config, setting.name, (layer,), setting.buffer_rows)
    train = setting.train(batch_size)
    whole = train.steps * batch_size
    values, heldout = recorded.rows("train", layer)[:whole], ArrayRows(recorded.rows("heldout", layer), "memory")
    examples = len(np.unique(np.concatenate([batch.example for batch in recorded.train])[:whole]))

    def error(buffer_rows: int | None, seed: int) -> float:
        mixed = ArrayRows(np.random.default_rng(seed).permutation(values), "memory")
        output = Path(tempfile.mkdtemp(dir=parent))
        sweep, destination = setting.sweep(mixed, heldout, output, layer, train, seed=seed)
        if buffer_rows is None:
            train_from_store(sweep, mixed, destination)
        else:
            batches = setting.batches(recorded, values.shape[1], batch_size, buffer_rows, seed)
            train_from_stream({sweep: destination}, batches, setting.name)
        return read_sealed(destination.folder / "sweep.json")["runs"][0]["normalized_mse"]

    stored = [error(None, seed) for seed in range(seeds)]
    found: list[dict[str, Any]] = [{"buffer_rows": None, "examples": examples, "errors": stored, "ratios": []}]
    for rows in sorted({max(batch_size, whole // share) for share in (1, 2, 4, 16, whole)}, reverse=True):
        ratios = [error(rows, seed) / stored[seed] for seed in range(seeds)]
        found.append({"buffer_rows": rows, "examples": examples * rows / whole, "ratios": ratios})
    return found


def cost_lines(setting: Setting, costs: dict[str, Any]) -> list[str]:
    seconds, floor = costs["cpu_seconds"], costs["floor"]
    lines = [
        f"{setting.name}, layers {', '.join(map(str, setting.layers))}: one pass over {setting.tokens:,} tokens, "
        f"two variants (TopK, and with AuxK) a layer at one learning rate, a buffer of {setting.buffer_rows:,} rows",
        f"{'':26}{'CPU-s':>8}{'x floor':>9}{'MB':>8}{'MB on disk':>12}",
    ]
    for name, value in seconds.items():
        memory = f"{costs['memory'][name] / 1e6:8.0f}" if name in costs["memory"] else ""
        disk = f"{costs['disk'] / 1e6 if name == 'through stores' else 0:12.0f}" if memory else ""
        lines.append(f"{name:26}{value:8.1f}{value / floor:9.2f}{memory}{disk}")
    return lines


def error_lines(setting: Setting, errors: list[dict[str, Any]]) -> list[str]:
    stored, *buffers = errors
    lines = [
        f"held-out error against a store's ({statistics.fmean(stored['errors']):.4f}), layer {setting.layers[0]}, "
        f"{len(stored['errors'])} seeds:",
        f"{'buffer, rows':>14}{'examples in it':>16}{'error':>8}{'standard error':>16}",
    ]
    for one in buffers:
        ratios = one["ratios"]
        spread = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan")
        lines.append(f"{one['buffer_rows']:14,}{one['examples']:16.1f}{statistics.fmean(ratios):8.3f}{spread:16.3f}")
    return lines
