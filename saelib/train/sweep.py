"""A sweep: one variant on one layer at all its learning rates, at some step of its training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saelib.activations.rows import Rows
from saelib.config import TrainConfig, VariantConfig
from saelib.config.sites import Layer, number_of, site_of
from saelib.evaluation.reconstruction import rows_at_a_time
from saelib.evaluation.space import Sample, Space
from saelib.sae.choose import step_all
from saelib.sae.origin import UNKNOWN, Origin
from saelib.sae.trainer import Trainer
from saelib.train.batches_from_model import START, Position


@dataclass(frozen=True)
class Subject:
    """Names of what is trained, for messages and results."""

    model: str
    layer: Layer
    variant: str

    def __str__(self) -> str:
        """The subject as messages call it."""
        return f"{self.model} layer {self.layer}, variant {self.variant}"

    def described(self) -> dict[str, Any]:
        """Gives model, layer, site and variant as results state them. JSON."""
        layer = {"layer": number_of(self.layer), "site": site_of(self.layer)}
        return {"model": self.model, **layer, "variant": self.variant}


@dataclass(frozen=True)
class Destination:
    """Place of a sweep's results."""

    folder: Path
    """The folder of this variant's results; checkpoints and logs lie below it."""
    key: str
    """Hash of everything that the results depend on."""


@dataclass
class Run:
    """One learning rate of a sweep."""

    learning_rate: float
    trainer: Trainer
    status: Literal["ok", "diverged"] = "ok"
    history: list[dict[str, Any]] = field(default_factory=list)
    """A row with the columns of `saelib.train.history.HISTORY` for step 0 and every `record_every` steps after it."""


@dataclass(eq=False)
class RunningSweep:
    """One SAE for each learning rate, all from the same weights and on the same batches.

    `saelib.train.start.start_sweep` makes it, `saelib.train.loop.train_sweeps` brings it to its last step, and
    `saelib.train.finish.finish_sweep` measures its SAEs and publishes the best one.
    """

    subject: Subject
    config: TrainConfig
    variant: VariantConfig
    seed: int
    settings: dict[str, Any]
    """All settings that decide the results; results, logs and checkpoints quote them. JSON."""
    space: Space
    heldout: Rows
    choosing: NDArray[np.bool_]
    """[held-out tokens]; marks the rows that the learning rate is chosen on. Results are measured on the others."""
    runs: list[Run]
    reason: str | None = None
    """Reason for this preprocessing, if it was chosen automatically."""
    origin: Origin = UNKNOWN
    """Origin of the activations; the SAE's file quotes it."""
    steps_done: int = 0
    position: Position = START
    """Position at which a stream of batches resumes."""

    @property
    def alive(self) -> list[Run]:
        """The runs that have not diverged."""
        return [run for run in self.runs if run.status == "ok"]

    @property
    def is_over(self) -> bool:
        """True if all steps are done, or every learning rate has diverged."""
        return self.steps_done >= self.config.steps or not self.alive

    def step(self, x: Tensor, position: Position = START) -> None:
        """Trains the SAEs that have not diverged on one batch.

        Args:
            x: The batch as the SAEs read it, float32 [batch_size, d_out], on their device.
            position: Position at which a stream resumes after this batch.
        """
        step_together([self], x, position)

    def heldout_samples(self, tokens: int) -> Iterator[Sample]:
        """The first `tokens` held-out rows, or all if there are fewer, as the SAEs read them."""
        stop = min(tokens, self.heldout.shape[0])
        return self.space.samples(self.heldout, stop, rows_at_a_time(self.config.d_sae))


def step_together(sweeps: Sequence[RunningSweep], x: Tensor, position: Position = START) -> None:
    """Trains the SAEs of several sweeps on the same batch; see `RunningSweep.step`. Bits are those of each alone."""
    step_all([run.trainer for sweep in sweeps for run in sweep.alive], x, sweeps[0].config.threads)
    for sweep in sweeps:
        sweep.steps_done, sweep.position = sweep.steps_done + 1, position
