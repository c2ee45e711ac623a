"""Stage `train`: variants on layers of one model, from their stores and statistics, or straight from the model."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from saelib.config import Config
from saelib.config.preprocessings import PlainPreprocessing
from saelib.config.sites import Layer, in_order
from saelib.devices.cards import job_device
from saelib.devices.memory import explained_shortage
from saelib.sources.precision import exact_float32
from saelib.stats import load_arrays, load_stats
from saelib.store import Store, open_store
from saelib.train.batches_from_model import StreamedBatches
from saelib.train.memory import Sizes, room_for_rows, sizes_of, too_little_memory
from saelib.train.origin import origin_of_layer
from saelib.train.rules import choose
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, RunningSweep, Subject
from saelib.train.training import train_from_stream, train_together

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job
    from saelib.pipeline.targets import Target

log = logging.getLogger(__name__)


@exact_float32()
def run(config: Config, job: "Job") -> None:
    """Trains each target's variant at every learning rate of the config; all targets are of one model.

    Without a stream, they are of one layer too and read the same rows (`TrainConfig.rows_of`).
    """
    # Bits depend on the number of threads, so the machine must not decide it.
    torch.set_num_threads(config.train.threads)
    name = job.targets[0].model
    stores = {target.layer: open_store(config.store_path(name, target.layer)) for target in job.targets}
    if config.models[name].stream is not None:
        with explained_shortage(lambda usable: _shortage(config, job.targets, stores, usable)):
            _stream(config, job, stores)
        return
    with explained_shortage(lambda usable: _shortage(config, job.targets, stores, usable)):
        sweeps = {_start(config, target, stores[target.layer]): _destination(target) for target in job.targets}
        first = next(iter(sweeps)).subject
        shown = str(first) if len(sweeps) == 1 else f"{name} layer {first.layer}, {len(sweeps)} variants"
        train_together(sweeps, stores[first.layer].train, shown)


def _buffer_device(
    config: Config, targets: "Sequence[Target]", stores: Mapping[Layer, Store], sweep: RunningSweep, rows: int
) -> str | None:
    """The GPU if the shuffle buffers of all layers fit there next to the trainings; None for memory of the host."""
    if sweep.space.on_device is None:
        return None
    wanted = sum(2 * rows * store.train.shape[1] for store in stores.values())
    return sweep.space.device if wanted <= room_for_rows(_sizes(config, targets, stores)) else None


def _sizes(config: Config, targets: "Sequence[Target]", stores: Mapping[Layer, Store]) -> Sizes:
    width = max(stores[target.layer].train.shape[1] for target in targets)
    return sizes_of(width, config.train, [config.train.variants[target.variant] for target in targets])


def _shortage(config: Config, targets: "Sequence[Target]", stores: Mapping[Layer, Store], usable: float) -> str:
    """The message that the GPU's memory does not suffice for these targets together."""
    first = targets[0]
    name = first.model if len(targets) > 1 else str(Subject(first.model, first.layer, first.variant))
    option = "train.variants_per_job" if config.models[first.model].stream is None else "stream.sweeps_per_pass"
    return too_little_memory(name, _sizes(config, targets, stores), usable, len(targets), option)


def _stream(config: Config, job: "Job", stores: Mapping[Layer, Store]) -> None:
    """Trains all targets from the same forward passes; preprocessings and scales still come from their stores."""
    from saelib.extract.batches import open_batches

    name = job.targets[0].model
    stream = config.models[name].stream
    assert stream is not None
    layers = in_order({target.layer for target in job.targets})
    sweeps = {_start(config, target, stores[target.layer]): _destination(target) for target in job.targets}
    device = _buffer_device(config, job.targets, stores, next(iter(sweeps)), stream.buffer_rows)
    batches = StreamedBatches(
        open_batches(name, config, layers, leave=device is not None),
        {layer: store.train.offset for layer, store in stores.items()},
        name=name,
        batch_size=config.train.batch_size,
        buffer_rows=stream.buffer_rows,
        seed=config.seed,
        threads=config.extraction.threads,
        device=device,
    )
    torch.set_num_threads(config.train.threads)  # which opening the model has changed
    train_from_stream(sweeps, batches, name)


def _start(config: Config, target: "Target", store: Store) -> RunningSweep:
    statistics = config.stats_path(target.model, target.layer)
    data = LayerData(
        store.train,
        store.heldout,
        load_arrays(statistics),
        store.heldout.examples(),
        config.models[target.model].stream,
    )
    subject = Subject(target.model, target.layer, target.variant)
    origin = origin_of_layer(config, target.model, target.layer)
    variant, reason = config.train.variants[target.variant], None
    settings, seed = config.train.sized_for(variant), config.seed if variant.seed is None else variant.seed
    choice = choose(data, load_stats(statistics), settings, variant, subject, seed)
    if choice is not None:
        preprocessing = PlainPreprocessing(kind=choice.preprocessing)
        variant, reason = variant.model_copy(update={"preprocessing": preprocessing}), choice.reason
        log.info("%s: %s is chosen. %s", subject, choice.preprocessing, reason)
    device = job_device(config.train.device, "train.device", float64=True)  # sums of the evaluation are float64
    return start_sweep(data, settings, variant, subject=subject, seed=seed, device=device, reason=reason, origin=origin)


def _destination(target: "Target") -> Destination:
    return Destination(target.output.parent, target.key)
