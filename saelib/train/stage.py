"""Stage `train`: variants on layers of one model, from their stores and statistics, or straight from the model."""

import logging
from typing import TYPE_CHECKING

import torch

from saelib.config import Config
from saelib.config.preprocessings import PlainPreprocessing
from saelib.config.sites import in_order
from saelib.sources.precision import exact_float32
from saelib.stats import load_arrays, load_stats
from saelib.store import Store, open_store
from saelib.train.batches_from_model import StreamedBatches
from saelib.train.origin import origin_of_layer
from saelib.train.rules import choose
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, RunningSweep, Subject
from saelib.train.training import train_from_store, train_from_stream

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job
    from saelib.pipeline.targets import Target

log = logging.getLogger(__name__)


@exact_float32()
def run(config: Config, job: "Job") -> None:
    """Train each target's variant at every learning rate of the config; all targets are of one model."""
    # Bits depend on the number of threads, so the machine must not decide it.
    torch.set_num_threads(config.train.threads)
    if config.models[job.targets[0].model].stream is not None:
        _stream(config, job)
        return
    for target in job.targets:
        store = open_store(config.store_path(target.model, target.layer))
        train_from_store(_start(config, target, store), store.train, _destination(target))


def _stream(config: Config, job: "Job") -> None:
    """Train all targets from the same forward passes; preprocessings and scales still come from their stores."""
    from saelib.extract.batches import open_batches

    name = job.targets[0].model
    stream = config.models[name].stream
    assert stream is not None
    layers = in_order({target.layer for target in job.targets})
    stores = {layer: open_store(config.store_path(name, layer)) for layer in layers}
    sweeps = {_start(config, target, stores[target.layer]): _destination(target) for target in job.targets}
    batches = StreamedBatches(
        open_batches(name, config, layers),
        {layer: store.train.offset for layer, store in stores.items()},
        name=name,
        batch_size=config.train.batch_size,
        buffer_rows=stream.buffer_rows,
        seed=config.seed,
        threads=config.extraction.threads,
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
    return start_sweep(data, settings, variant, subject=subject, seed=seed, reason=reason, origin=origin)


def _destination(target: "Target") -> Destination:
    return Destination(target.output.parent, target.key)
