"""Batches for sweeps: from one layer's store for one of them, or straight from the model for several at once."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import islice

import torch
from torch import Tensor

from saelib.activations.rows import Rows, read_float32
from saelib.errors import UserError
from saelib.progress import Advance, progress
from saelib.train.batches_from_model import StreamedBatches
from saelib.train.batches_from_store import ShuffledBatches
from saelib.train.checkpoint import Reached
from saelib.train.sweep import Sweep

log = logging.getLogger(__name__)


def train_from_store(sweep: Sweep, train: Rows) -> None:
    """Train a sweep on stored rows, and publish it.

    Raises:
        UserError: where the rows do not fill a batch, a checkpoint cannot be written, or every learning rate diverged.
    """
    config, space = sweep.config, sweep.space
    batches = ShuffledBatches(space.prepare(train), config.batch_size, seed=sweep.seed, device=space.device)
    with (
        sweep.started() as reached,
        progress(f"train {sweep.subject}", config.steps - reached.step, "steps", log) as advance,
    ):
        shown = _Shown(advance, config.record_every, reached.step)
        for step, batch in enumerate(
            islice(batches.batches(reached.step), config.steps - reached.step), reached.step + 1
        ):
            sweep.step(batch)
            shown.at(step, config.steps, sweep)
            if sweep.is_over:
                break
    sweep.publish()


def train_from_stream(sweeps: Sequence[Sweep], batches: StreamedBatches, name: str) -> None:
    """Train the sweeps of one model's layers from the same forward passes, and publish each.

    Each goes on from its own last checkpoint: the stream starts where the one that is furthest behind stands, and the
    others join in when it comes to where they are. A sweep's bits do not depend on the others.

    Raises:
        UserError: what the model raises; where a checkpoint cannot be written; where every learning rate of a sweep
            diverged, after the others were published.
    """
    config = sweeps[0].config
    with ExitStack() as logs:
        reached = [logs.enter_context(sweep.started()) for sweep in sweeps]
        # Where a sweep is over (diverged before it was killed), no other waits for it.
        waiting = [came for sweep, came in zip(sweeps, reached, strict=True) if not sweep.is_over]
        start = min(waiting, key=lambda one: one.step, default=Reached(config.steps))
        title = f"train {name}, {len(sweeps)} variants from one pass"
        advance = logs.enter_context(progress(title, config.steps - start.step, "steps", log))
        shown = _Shown(advance, config.record_every, start.step)
        stream = batches.batches(start.step, start.position)
        for step, rows in enumerate(islice(stream, config.steps - start.step), start.step + 1):
            prepared: dict[tuple[int, str], Tensor] = {}
            for sweep, came in zip(sweeps, reached, strict=True):
                if step > came.step and not sweep.is_over:
                    sweep.step(_prepared(sweep, rows, prepared), batches.position)
            shown.at(step, config.steps, sweeps[0])
            if all(sweep.is_over for sweep in sweeps):
                break
    _publish(sweeps)


def _prepared(sweep: Sweep, rows: Mapping[int, Rows], prepared: dict[tuple[int, str], Tensor]) -> Tensor:
    """A batch as a sweep's SAEs read it: made once for all sweeps of a layer and a preprocessing."""
    layer, space = sweep.subject.layer, sweep.space
    key = (layer, "" if space.same else sweep.variant.preprocessing.model_dump_json())
    if key not in prepared:
        values = read_float32(space.prepare(rows[layer]), 0, sweep.config.batch_size)
        prepared[key] = torch.from_numpy(values).to(space.device)
    return prepared[key]


def _publish(sweeps: Sequence[Sweep]) -> None:
    """Each sweep, whatever became of the others."""
    failed: list[str] = []
    for sweep in sweeps:
        try:
            sweep.publish()
        except UserError as error:
            failed.append(str(error))
    if failed:
        raise UserError("\n".join(failed))


class _Shown:
    """Progress, as often as it is recorded."""

    def __init__(self, advance: Advance, every: int, start: int) -> None:
        self._advance, self._every, self._last = advance, every, start

    def at(self, step: int, steps: int, sweep: Sweep) -> None:
        if step % self._every == 0 or step == steps:
            self._advance(step - self._last, sweep.note)
            self._last = step
