"""One variant on one layer, over all learning rates, from one pass over the data."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saelib.config import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.preprocess import make_preprocess
from saelib.progress import progress
from saelib.rows import Rows
from saelib.sae.choose import make_trainer, step_all
from saelib.sae.init import initial_sae, set_firing_rate
from saelib.sae.kernels.cpu import vector_lanes
from saelib.sae.torch_trainer import TorchTrainer
from saelib.sae.trainer import Trainer
from saelib.train.checkpoint import Checkpoints, Identity
from saelib.train.evaluate import Evaluation, evaluate, rows_at_a_time
from saelib.train.loader import ShuffledBatches
from saelib.train.loggers import Log, open_log
from saelib.train.publish import publish
from saelib.train.record import Recorder, Run
from saelib.train.space import Sample, Space

log = logging.getLogger(__name__)

PROBE_ROWS = 2_048
"""Held-out rows, the first ones, that every row of the history is measured on."""


@dataclass(frozen=True)
class Subject:
    """What is trained: names for messages and results."""

    model: str
    layer: int
    variant: str

    def __str__(self) -> str:
        """As messages call it."""
        return f"{self.model} layer {self.layer}, variant {self.variant}"


@dataclass(frozen=True)
class Task:
    """What all learning rates of a sweep share."""

    subject: Subject
    config: TrainConfig
    variant: VariantConfig
    seed: int
    space: Space
    heldout: Rows
    """As stored."""

    def samples(self, tokens: int) -> Iterator[Sample]:
        """The first held-out rows."""
        stop = min(tokens, self.heldout.shape[0])
        return self.space.samples(self.heldout, stop, rows_at_a_time(self.config.d_sae))


def train_variant(
    train: Rows,
    heldout: Rows,
    arrays: Mapping[str, NDArray[Any]],
    config: TrainConfig,
    variant: VariantConfig,
    *,
    output: Path,
    key: str,
    seed: int,
    subject: Subject,
    device: str = "auto",
    reason: str | None = None,
) -> None:
    """Train one SAE for each learning rate, all from the same weights on the same batches, and keep the best.

    Writes `history.parquet`, `weights.safetensors` (of the best rate) and, last, `sweep.json` into `output`. A job that
    was killed goes on from its last checkpoint in `checkpoints/`, and ends with the same bits as one that was not.
    Checkpoints with another `key` are not continued; all are removed once the sweep is published.

    Args:
        train: Rows to train on.
        heldout: Rows of other examples, to measure on.
        arrays: The layer's statistics, as `make_preprocess` takes them.
        config: Sizes, steps and rates.
        variant: The method; its preprocessing is not `auto` (see `saelib.choose_preprocessing`).
        output: The folder of this variant's results.
        key: What the results depend on, as one hash.
        seed: Of the initial weights, of the batches and of what is drawn during training.
        subject: What is trained.
        device: A name that torch knows, or `auto`: CUDA where there is one, otherwise the CPU.
        reason: Why this preprocessing was chosen, where it was.

    Raises:
        UserError: where the rows do not fill a batch, are constant or not finite, none are held out, the preprocessing
            cannot be fitted, a checkpoint cannot be written, or every learning rate diverged.
    """
    if heldout.shape[0] == 0:
        raise UserError(f"{heldout.name}: no held-out tokens to measure on (extraction.heldout_tokens)")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    preprocess = make_preprocess(variant.preprocessing, arrays, tokens=train.shape[0], name=str(subject))
    space = Space(preprocess, train, device)
    batches = ShuffledBatches(space.prepare(train), config.batch_size, seed=seed, device=device)
    task = Task(subject, config, variant, seed, space, heldout)
    runs = _initial_runs(task, batches, preprocess.subspace)
    settings = config.deciding(variant) | {"seed": seed, "train_tokens": train.shape[0]}
    checkpoints = Checkpoints(output / "checkpoints", Identity(key, settings))
    with open_log(config.log_to, output / "log", str(subject), key[:32], settings) as curves:
        _train(task, runs, batches, checkpoints, curves)
    described = {
        "key": key,
        **asdict(subject),
        **settings,
        "heldout_tokens": heldout.shape[0],
        "d_in": preprocess.d_in,
        "preprocessing_reason": reason,
        "path": _path(runs[0].trainer),
    }
    publish(output, described, runs, _measure(task, runs), space.preprocess)
    checkpoints.remove()


def _initial_runs(task: Task, batches: ShuffledBatches, subspace: NDArray[np.float32] | None) -> list[Run]:
    """A trainer for each learning rate, all from the same weights."""
    space, variant = task.space, task.variant
    sae = initial_sae(
        len(space.initial_bias),
        task.config,
        variant,
        seed=task.seed,
        b_dec=space.initial_bias,
        subspace=None if subspace is None else torch.from_numpy(subspace),
    ).to(space.device)
    if variant.init.firing_rate is not None:
        set_firing_rate(sae, next(batches.batches()), variant.init.firing_rate)
    runs = []
    for rate in variant.learning_rates or task.config.learning_rates:
        trainer = make_trainer(
            deepcopy(sae),  # which some train in place
            task.config,
            variant,
            learning_rate=rate,
            variance=space.trained.variance,
            seed=task.seed,
            threads=task.config.threads,
        )
        runs.append(Run(rate, trainer))
    return runs


def _path(trainer: Trainer) -> str:
    """What computes the steps; it decides their last bits."""
    if isinstance(trainer, TorchTrainer):
        return f"torch {trainer.sae.b_enc.device.type}"
    return "kernels avx512" if vector_lanes() == 16 else "kernels avx2"


def _train(task: Task, runs: list[Run], batches: ShuffledBatches, checkpoints: Checkpoints, curves: Log) -> None:
    """All steps of all runs, or those after the last checkpoint."""
    config = task.config
    probe = list(task.samples(PROBE_ROWS))
    recorder = Recorder(config, task.variant.schedule, probe, task.space)
    checkpoints.warn_of_others()
    start = checkpoints.resume(runs)
    if start == 0:
        _check_finite(recorder.record(runs, 0), task.heldout)
    for rows in _by_step(runs):
        curves.write(rows)
    alive = [run for run in runs if run.status == "ok"]
    with progress(f"train {task.subject}", config.steps - start, "steps", log) as advance:
        shown = start
        for step, batch in enumerate(islice(batches.batches(start), config.steps - start), start + 1):
            step_all([run.trainer for run in alive], batch, config.threads)
            if step % config.record_every == 0 or step == config.steps:
                recorder.record(alive, step)
                curves.write([run.history[-1] for run in alive])
                alive = _still_alive(alive, step)
                advance(step - shown, _note(alive))
                shown = step
            if step % config.checkpoint_every == 0:
                checkpoints.save(runs, step)
            if not alive:
                break


def _by_step(runs: Sequence[Run]) -> list[list[dict[str, Any]]]:
    """The rows of all histories, those of one step together."""
    steps: dict[int, list[dict[str, Any]]] = {}
    for row in (row for run in runs for row in run.history):
        steps.setdefault(row["step"], []).append(row)
    return [steps[step] for step in sorted(steps)]


def _still_alive(runs: Sequence[Run], step: int) -> list[Run]:
    for run in runs:
        if run.status == "diverged":
            log.warning("learning rate %g: diverged, seen at step %d", run.learning_rate, step)
    return [run for run in runs if run.status == "ok"]


def _note(runs: Sequence[Run]) -> str:
    """The best run so far."""
    if not runs:
        return "all learning rates diverged"
    best = min((run.history[-1] for run in runs), key=lambda row: row["normalized_mse"])
    return (
        f"rate {best['learning_rate']:g}: normalized mse {best['normalized_mse']:.4g}, "
        f"{100 * best['probe_dead_total']:.1f} % dead"
    )


def _measure(task: Task, runs: Sequence[Run]) -> dict[float, Evaluation]:
    """Every run that did not diverge, by its learning rate, over all held-out rows."""
    alive = [run for run in runs if run.status == "ok"]
    if not alive:
        rates = ", ".join(f"{run.learning_rate:g}" for run in runs)
        raise UserError(
            f"{task.subject}: training diverged at every learning rate ({rates}); add a smaller one to learning_rates"
        )
    found = evaluate([run.trainer.sae for run in alive], task.samples(task.heldout.shape[0]), task.space)
    _check_finite(found, task.heldout)
    return {run.learning_rate: measured for run, measured in zip(alive, found, strict=True)}


def _check_finite(found: Sequence[Evaluation], heldout: Rows) -> None:
    """For what was measured with weights that are known to be finite."""
    if not all(measured.finite for measured in found):
        raise UserError(f"{heldout.name}: the held-out activations are constant or not finite; nothing can be measured")
