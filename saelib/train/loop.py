"""The training loop: batches come in, sweeps make steps, observers look on. It knows neither files nor measures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from saelib.train.batches_from_model import Position
from saelib.train.sweep import RunningSweep, step_together


class Batch(Protocol):
    """Rows for one step."""

    @property
    def position(self) -> Position:
        """Position at which a stream resumes after this batch."""
        ...

    def read_by(self, sweep: RunningSweep) -> Tensor:
        """The rows as the sweep's SAEs read them: float32 [batch_size, d_out], on its device.

        Sweeps that are given the same tensor make their steps together.
        """
        ...


class Observer(Protocol):
    """Follows a sweep: writes its history, its log or its checkpoints, for example."""

    def observe(self, sweep: RunningSweep) -> None:
        """Called after every step of the sweep; most observers do something at some steps only."""
        ...


def train_sweeps(
    sweeps: Mapping[RunningSweep, Sequence[Observer]], batches: Iterable[Batch], steps_before: int
) -> None:
    """Brings every sweep forward on the batches that it has not seen, until it is over or no batch is left.

    Sweeps may have done different numbers of steps: one that is ahead joins in when the batches come to where it is.

    Args:
        sweeps: Sweeps with their observers, which are called in order.
        batches: Batches number `steps_before` + 1, `steps_before` + 2, … of the training.
        steps_before: Number of batches that come before these.
    """
    for number, batch in enumerate(batches, steps_before + 1):
        behind = [sweep for sweep in sweeps if sweep.steps_done < number and not sweep.is_over]
        _step(behind, batch)
        for sweep in behind:
            for observer in sweeps[sweep]:
                observer.observe(sweep)
        if all(sweep.is_over for sweep in sweeps):
            return


def _step(sweeps: Iterable[RunningSweep], batch: Batch) -> None:
    """One step of each sweep, together with those that read the same tensor."""
    groups: dict[int, tuple[Tensor, list[RunningSweep]]] = {}
    for sweep in sweeps:
        x = batch.read_by(sweep)
        groups.setdefault(id(x), (x, []))[1].append(sweep)
    for x, group in groups.values():
        step_together(group, x, batch.position)
