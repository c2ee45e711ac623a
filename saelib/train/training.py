"""Training from start to published results: one sweep from its store, or all of a model's straight from the model."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from saelib.activations.rows import Rows, read_float32
from saelib.config.sites import Layer
from saelib.errors import UserError
from saelib.evaluation.space import Space
from saelib.progress import Advance, progress
from saelib.train.batches_from_model import START, DeviceRows, Position, StreamedBatches
from saelib.train.batches_from_store import ShuffledBatches
from saelib.train.batches_on_device import DeviceBatches
from saelib.train.checkpoint import checkpoints_of
from saelib.train.finish import finish_sweep
from saelib.train.history import Recorder
from saelib.train.loggers import LogWriter, open_log
from saelib.train.loop import Batch, Observer, train_sweeps
from saelib.train.memory import room_for_rows, sizes_of
from saelib.train.order import WINDOW_BYTES
from saelib.train.sweep import Destination, RunningSweep

log = logging.getLogger(__name__)

BatchesFrom = Callable[[int, Position], Iterator[Batch]]
"""Endless batches from a number of steps and a stream's position on."""


def train_from_store(sweep: RunningSweep, train: Rows, destination: Destination) -> None:
    """Trains a sweep on stored rows, from its last checkpoint if there is one, and publishes it.

    Raises:
        UserError: if the rows do not fill a batch, a checkpoint cannot be written, or every learning rate diverged.
    """
    train_together({sweep: destination}, train, str(sweep.subject))


def train_together(sweeps: Mapping[RunningSweep, Destination], train: Rows, name: str) -> None:
    """Trains sweeps of one seed and preprocessing on the same batches of stored rows, and publishes each.

    Each resumes from its own last checkpoint, and its bits do not depend on the others. On a GPU, those that are alike
    train as one program (`saelib.sae.gpu`).

    Raises:
        UserError: see `train_from_store`; if every learning rate of a sweep diverged, after the others were published.
    """
    stored = stored_batches(list(sweeps), train)

    def batches(start: int, _: Position) -> Iterator[Batch]:
        return map(_StoredBatch, stored.batches(start))

    _train(sweeps, batches, f"train {name}")


def stored_batches(
    sweeps: Sequence[RunningSweep], train: Rows, room: float | None = None, window_bytes: int = WINDOW_BYTES
) -> ShuffledBatches | DeviceBatches:
    """The batches of sweeps that read the same rows, in an order that does not depend on their device.

    Args:
        sweeps: Sweeps of one seed and preprocessing, with their trainers.
        train: Rows as stored.
        room: Bytes of a GPU that rows may take; measured if not given.
        window_bytes: See `WindowOrder`.

    Raises:
        UserError: if the rows do not fill a batch.
    """
    sweep = sweeps[0]
    space, config = sweep.space, sweep.config
    if space.on_device is None:
        prepared = space.prepare(train)
        return ShuffledBatches(prepared, config.batch_size, seed=sweep.seed, window_bytes=window_bytes)
    width = space.preprocess.d_out
    if room is None:
        room = room_for_rows(sizes_of(width, config, [own.variant for own in sweeps]))
    options = {"seed": sweep.seed, "device": space.device, "room": room, "window_bytes": window_bytes}
    batches = DeviceBatches(train, space.reader(train.offset), width, config.batch_size, **options)
    where = "all of them stay there" if batches.resident else "they come through windows, as they do not fit"
    log.info("%s: batches of stored rows are made on %s; %s", sweep.subject, space.device, where)
    return batches


def train_from_stream(sweeps: Mapping[RunningSweep, Destination], stream: StreamedBatches, name: str) -> None:
    """Trains the sweeps of one model's layers from the same forward passes, and publishes each.

    Each resumes from its own last checkpoint: the stream starts where the sweep with the fewest steps stands, and the
    others join in when it comes to where they are. A sweep's bits do not depend on the other sweeps.

    Raises:
        UserError: if the model raises it, a checkpoint cannot be written, or every learning rate of a sweep diverged;
            in the last case after the other sweeps were published.
    """

    def batches(start: int, position: Position) -> Iterator[Batch]:
        for rows in stream.batches(start, position):
            yield _StreamedBatch(rows, stream.position)

    _train(sweeps, batches, f"train {name}, {len(sweeps)} variants from one pass")


def _train(sweeps: Mapping[RunningSweep, Destination], batches: BatchesFrom, title: str) -> None:
    """Resumes, loops and finishes; all sweeps have the same number of steps."""
    with ExitStack() as stack:
        observers = {sweep: stack.enter_context(_observed(sweep, place)) for sweep, place in sweeps.items()}
        steps = next(iter(sweeps)).config.steps
        unfinished = [sweep for sweep in sweeps if not sweep.is_over]
        start, position = min(
            ((sweep.steps_done, sweep.position) for sweep in unfinished), key=lambda at: at[0], default=(steps, START)
        )
        advance = stack.enter_context(progress(title, steps - start, "steps", log))
        shown = _Progress(advance, start)
        watched = {sweep: (*own, shown) for sweep, own in observers.items()}
        train_sweeps(watched, islice(batches(start, position), steps - start), start)
    _finish(sweeps)


@contextmanager
def _observed(sweep: RunningSweep, destination: Destination) -> Iterator[tuple[Observer, ...]]:
    """Resumes a sweep from its last checkpoint, or records its start; gives the observers of its further steps.

    Raises:
        UserError: if a checkpoint of another config lies in this one's place, or the held-out rows are constant.
    """
    config, folder, key = sweep.config, destination.folder, destination.key
    with open_log(config.log_to, folder / "log", str(sweep.subject), key[:32], sweep.settings) as opened:
        recorder, writer, checkpoints = Recorder(sweep), LogWriter(opened), checkpoints_of(sweep, destination)
        checkpoints.warn_of_others()
        checkpoints.resume(sweep)
        if sweep.steps_done == 0:
            recorder.observe(sweep)
        writer.observe(sweep)
        yield recorder, writer, checkpoints


def _finish(sweeps: Mapping[RunningSweep, Destination]) -> None:
    """Finish each sweep, even if another one cannot be finished."""
    failed: list[str] = []
    for sweep, destination in sweeps.items():
        try:
            finish_sweep(sweep, destination)
        except UserError as error:
            failed.append(str(error))
    if failed:
        raise UserError("\n".join(failed))


@dataclass(frozen=True)
class _StoredBatch:
    """A batch of a store's rows, which were prepared when they were loaded."""

    x: Tensor
    position: Position = START

    def read_by(self, sweep: RunningSweep) -> Tensor:
        return self.x


@dataclass(frozen=True)
class _StreamedBatch:
    """A batch of every layer of a model, prepared once for all sweeps with the same layer and preprocessing."""

    rows: Mapping[Layer, Rows | DeviceRows]
    position: Position
    prepared: dict[tuple[Layer, str], Tensor] = field(default_factory=dict)

    def read_by(self, sweep: RunningSweep) -> Tensor:
        layer, space = sweep.subject.layer, sweep.space
        key = (layer, "" if space.same else sweep.variant.preprocessing.model_dump_json())
        if key not in self.prepared:
            self.prepared[key] = _prepared(self.rows[layer], space, sweep.config.batch_size)
        return self.prepared[key]


def _prepared(rows: Rows | DeviceRows, space: Space, batch_size: int) -> Tensor:
    """A batch as SAEs read it."""
    if isinstance(rows, DeviceRows):
        return space.reader(rows.offset)(rows.values)
    return torch.from_numpy(read_float32(space.prepare(rows), 0, batch_size)).to(space.device)


class _Progress:
    """Shows the progress of all sweeps together, as often as history is recorded."""

    def __init__(self, advance: Advance, start: int) -> None:
        self._advance, self._shown = advance, start

    def observe(self, sweep: RunningSweep) -> None:
        step, config = sweep.steps_done, sweep.config
        if step > self._shown and (step % config.record_every == 0 or step == config.steps):
            self._advance(step - self._shown, _best_so_far(sweep))
            self._shown = step


def _best_so_far(sweep: RunningSweep) -> str:
    rows = [run.history[-1] for run in sweep.alive]
    if not rows:
        return "all learning rates diverged"
    best = min(rows, key=lambda row: row["token_fvu_median"])
    return (
        f"rate {best['peak_learning_rate']:g}: {100 * best['token_fvu_median']:.3g} % of a typical token unexplained, "
        f"{100 * best['probe_dead_total']:.1f} % dead"
    )
