"""One variant on one layer at all learning rates: what is trained, step by step, and what becomes of it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.activations.rows import Rows, read_float32
from saelib.config import TrainConfig, VariantConfig
from saelib.config.training import StreamConfig
from saelib.errors import UserError
from saelib.evaluation.reconstruction import Evaluation, evaluate, rows_at_a_time
from saelib.evaluation.space import Sample, Space
from saelib.preprocessing.fit import make_preprocessing
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.choose import make_trainer, step_all
from saelib.sae.initial_weights import initial_sae, set_firing_rate
from saelib.sae.kernels.cpu import vector_lanes
from saelib.sae.model import SAE
from saelib.sae.trainer import Trainer
from saelib.sources.precision import pick_device
from saelib.train.batches_from_model import START, Position
from saelib.train.checkpoint import Checkpoints, Identity, Reached
from saelib.train.halves import choosing_half, only
from saelib.train.history import Recorder, Run
from saelib.train.loggers import open_log
from saelib.train.publish import publish

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


class Sweep:
    """One SAE for each learning rate, all from the same weights on the same batches, the best of which is kept.

    Use: inside `with sweep.started() as reached:`, give `step` each batch after the step reached, until `is_over`;
    then `publish`. A job that was killed goes on from its last checkpoint in `checkpoints/`, and ends with the same
    bits as one that was not. Checkpoints with another `key` are not continued; all are removed by `publish`.
    """

    def __init__(
        self,
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
        stream: StreamConfig | None = None,
        heldout_examples: NDArray[np.integer] | None = None,
    ) -> None:
        """Fit the preprocessing and draw the weights.

        Args:
            train: Rows to train on, or at least rows like them, to measure scales on.
            heldout: Rows of other examples, to measure on.
            arrays: The layer's statistics, as `make_preprocessing` takes them.
            config: Sizes, steps and rates.
            variant: The method; its preprocessing is not `auto` (see `saelib.preprocessing.choose`).
            output: The folder of this variant's results.
            key: What the results depend on, as one hash.
            seed: Of the initial weights, of the batches and of what is drawn during training.
            subject: What is trained.
            device: A name that torch knows, or `auto`: CUDA where there is one, otherwise the CPU.
            reason: Why this preprocessing was chosen, where it was.
            stream: How the batches come, where they do not come from `train`.
            heldout_examples: [tokens], the example that each held-out row came from, so that none is in both halves
                (`saelib.train.halves`). None: neighbors are taken to belong together.

        Raises:
            UserError: where the rows are constant or not finite, none are held out, or the preprocessing cannot be
                fitted.
        """
        if heldout.shape[0] < 2:
            raise UserError(
                f"{heldout.name}: {heldout.shape[0]} held-out tokens; at least 2 are needed, to choose a learning rate "
                "on one half and to measure on the other (extraction.heldout_tokens)"
            )
        if device == "auto":
            device = pick_device(float64=True)  # sums of the evaluation are float64
        preprocess = make_preprocessing(variant.preprocessing, arrays, tokens=train.shape[0], name=str(subject))
        self.config, self.variant, self.seed, self.subject = config, variant, seed, subject
        self.space = Space(preprocess, train, device)
        self._heldout, self._output, self._key, self._reason = heldout, output, key, reason
        self._choosing = choosing_half(heldout.shape[0], heldout_examples, heldout.name)
        self._runs = self._initial_runs(train, preprocess.subspace)
        self._alive, self._steps_done = list(self._runs), 0
        how = {"seed": seed, "train_tokens": train.shape[0], "stream": stream and stream.deciding()}
        self._settings = config.deciding(variant) | how
        self._checkpoints = Checkpoints(output / "checkpoints", Identity(key, self._settings))

    @contextmanager
    def started(self) -> Iterator[Reached]:
        """From the last checkpoint, or from the start; inside, its logs are open.

        Raises:
            UserError: where a checkpoint of another config lies in this one's place, or the held-out rows are constant.
        """
        with open_log(
            self.config.log_to, self._output / "log", str(self.subject), self._key[:32], self._settings
        ) as self._curves:
            probe = list(self._samples(PROBE_ROWS))
            self._recorder = Recorder(self.config, self.variant.schedule, probe, self.space)
            self._checkpoints.warn_of_others()
            reached = self._checkpoints.resume(self._runs)
            self._steps_done = reached.step
            if reached.step == 0:
                self._check_finite(self._recorder.record(self._runs, 0))
            for rows in _by_step(self._runs):
                self._curves.write(rows)
            self._alive = [run for run in self._runs if run.status == "ok"]
            yield reached

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or no learning rate is left."""
        return self._steps_done >= self.config.steps or not self._alive

    def step(self, x: Tensor, position: Position = START) -> None:
        """Train on a batch, and record and save where it is time.

        Args:
            x: What the SAEs read, float32 [batch_size, d_out], on the device.
            position: Where a stream goes on after it.

        Raises:
            UserError: where a checkpoint cannot be written.
        """
        step = self._steps_done + 1
        step_all([run.trainer for run in self._alive], x, self.config.threads)
        if step % self.config.record_every == 0 or step == self.config.steps:
            self._recorder.record(self._alive, step)
            self._curves.write([run.history[-1] for run in self._alive])
            self._alive = _still_alive(self._alive, self.subject, step)
        if step % self.config.checkpoint_every == 0 or not self._alive:  # what has diverged is not tried again
            self._checkpoints.save(self._runs, Reached(step, position))
        self._steps_done = step

    @property
    def note(self) -> str:
        """The best run so far."""
        rows = [run.history[-1] for run in self._alive]
        if not rows:
            return "all learning rates diverged"
        best = min(rows, key=lambda row: row["token_fvu_median"])
        return (
            f"rate {best['peak_learning_rate']:g}: {100 * best['token_fvu_median']:.3g} % of a typical token "
            f"unexplained, {100 * best['probe_dead_total']:.1f} % dead"
        )

    def publish(self) -> None:
        """Measure every run on the held-out rows and write the results, `sweep.json` last; remove the checkpoints.

        Raises:
            UserError: where every learning rate diverged.
        """
        if not self._alive:
            rates = ", ".join(f"{run.learning_rate:g}" for run in self._runs)
            raise UserError(
                f"{self.subject}: training diverged at every learning rate ({rates}); add a smaller one to "
                "learning_rates"
            )
        choosing, reported = self._measured(self._choosing), self._measured(~self._choosing)
        publish(self._output, self._description(), self._runs, choosing, reported, self.space.preprocess)
        self._checkpoints.remove()

    def _measured(self, marked: NDArray[np.bool_]) -> dict[float, Evaluation]:
        """By learning rate, on some of the held-out rows."""
        saes = [run.trainer.sae for run in self._alive]
        found = evaluate(saes, only(self._samples(self._heldout.shape[0]), marked), self.space)
        self._check_finite(found)
        return {run.learning_rate: one for run, one in zip(self._alive, found, strict=True)}

    def _description(self) -> dict[str, Any]:
        """What was trained, and how. JSON."""
        return {
            "key": self._key,
            **asdict(self.subject),
            **self._settings,
            "heldout_tokens": self._heldout.shape[0],
            "choosing_tokens": int(self._choosing.sum()),
            "reported_tokens": int((~self._choosing).sum()),
            "d_in": self.space.preprocess.d_in,
            "preprocessing_reason": self._reason,
            "backend": _backend(self._runs[0].trainer),
        }

    def _initial_runs(self, train: Rows, subspace: NDArray[np.float32] | None) -> list[Run]:
        """A trainer for each learning rate, all from the same weights."""
        config, variant = self.config, self.variant
        sae = self._initial_sae(train, subspace)
        runs = []
        for rate in variant.learning_rates or config.learning_rates:
            trainer = make_trainer(
                deepcopy(sae),  # which some train in place
                config,
                variant,
                learning_rate=rate,
                variance=self.space.trained.variance,
                seed=self.seed,
                threads=config.threads,
            )
            runs.append(Run(rate, trainer))
        return runs

    def _initial_sae(self, train: Rows, subspace: NDArray[np.float32] | None) -> SAE:
        space, firing_rate = self.space, self.variant.init.firing_rate
        sae = initial_sae(
            len(space.initial_bias),
            self.config,
            self.variant,
            seed=self.seed,
            b_dec=space.initial_bias,
            subspace=None if subspace is None else torch.from_numpy(subspace),
        ).to(space.device)
        if firing_rate is not None:  # rows are shuffled when stored: the first ones will do
            first = read_float32(space.prepare(train), 0, min(self.config.batch_size, train.shape[0]))
            set_firing_rate(sae, torch.from_numpy(first).to(space.device), firing_rate)
        return sae

    def _samples(self, tokens: int) -> Iterator[Sample]:
        """The first held-out rows."""
        stop = min(tokens, self._heldout.shape[0])
        return self.space.samples(self._heldout, stop, rows_at_a_time(self.config.d_sae))

    def _check_finite(self, found: Sequence[Evaluation]) -> None:
        """For what was measured with weights that are known to be finite."""
        if not all(measured.finite for measured in found):
            raise UserError(
                f"{self._heldout.name}: the held-out activations are constant or not finite; nothing can be measured"
            )


def _backend(trainer: Trainer) -> str:
    """What computes the steps; it decides their last bits."""
    if isinstance(trainer, TorchTrainer):
        return f"torch {trainer.sae.b_enc.device.type}"
    return "kernels avx512" if vector_lanes() == 16 else "kernels avx2"


def _by_step(runs: Sequence[Run]) -> list[list[dict[str, Any]]]:
    """The rows of all histories, those of one step together."""
    steps: dict[int, list[dict[str, Any]]] = {}
    for row in (row for run in runs for row in run.history):
        steps.setdefault(row["step"], []).append(row)
    return [steps[step] for step in sorted(steps)]


def _still_alive(runs: Sequence[Run], subject: Subject, step: int) -> list[Run]:
    for run in runs:
        if run.status == "diverged":
            log.warning("%s, learning rate %g: diverged, seen at step %d", subject, run.learning_rate, step)
    return [run for run in runs if run.status == "ok"]
