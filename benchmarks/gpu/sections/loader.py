"""Getting a training batch: as stored and whitened, from rows that all stay on the device and from two windows."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from torch import Tensor

from benchmarks.gpu.card import Card
from benchmarks.gpu.contend import own_pace
from benchmarks.gpu.report import Row
from saelib.activations.rows import ArrayRows
from saelib.evaluation.space import Space
from saelib.preprocessing.on_device import DevicePreprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.train.batches_from_store import ShuffledBatches
from saelib.train.batches_on_device import DeviceBatches

DIFFERENT = "difference from the CPU's"


def rows(card: Card) -> Iterator[Row]:
    """Milliseconds of a batch; the batches must be those that a CPU gets, those of whitened rows but for rounding."""
    batch = card.either(4096, 256)
    for d_in, d_sae in card.either(((768, 8192), (4096, 65_536)), ((32, 256),)):
        step = own_pace(card, "saelib", card.setting(d_in=d_in, d_sae=d_sae, batch_size=batch, precision="tf32"), 5)
        stored = ArrayRows(_values(card.either(2**29 // (2 * d_in), 2048), d_in), offset=np.ones(d_in, np.float32))
        per_epoch = stored.shape[0] // batch
        whitening = Preprocessing(np.zeros(d_in), np.eye(d_in, dtype=np.float32))
        for title, preprocess in (("stored", Preprocessing(np.zeros(d_in))), ("whitened", whitening)):
            for place, room in (("all rows on the device", float("inf")), ("two windows", 0.0)):
                loader = _batches(card, stored, preprocess, batch, room)
                next(loader)
                pace = card.paced(lambda loader=loader: next(loader), 2 * per_epoch)
                figures = {"ms": pace.ms, "host, ms": pace.host_ms, "step in tf32 / this": step.ms / pace.ms}
                figures[DIFFERENT] = _different(card, stored, preprocess, batch, room)
                yield Row(f"d_in {d_in:,}, {title}, {place}", figures, {DIFFERENT: 1e-6})
                card.free()


def _batches(card: Card, stored: ArrayRows, preprocess: Preprocessing, batch: int, room: float) -> Iterator[Tensor]:
    space = Space(preprocess, stored, card.device)
    space.on_device = DevicePreprocessing(space.preprocess, card.device)  # on a CPU too, which has another loader
    read, width = space.reader(stored.offset), space.preprocess.d_out
    return DeviceBatches(stored, read, width, batch, seed=1, device=card.device, room=room).batches()


def _different(card: Card, stored: ArrayRows, preprocess: Preprocessing, batch: int, room: float) -> float:
    """Largest difference from the CPU's batches in the first two, relative to the largest value."""
    ours = _batches(card, stored, preprocess, batch, room)
    theirs = ShuffledBatches(Space(preprocess, stored, "cpu").prepare(stored), batch, seed=1).batches()
    pairs = islice(zip(ours, theirs, strict=True), 2)
    return max(float((mine.cpu() - other).abs().max() / other.abs().max()) for mine, other in pairs)


def _values(tokens: int, d_in: int) -> np.ndarray:
    """Rows as a store holds them; drawn once and repeated, because drawing them would take longer than the rest."""
    few = np.random.default_rng(0).standard_normal((min(tokens, 16_384), d_in), dtype=np.float32).astype(np.float16)
    return np.tile(few, (-(-tokens // len(few)), 1))[:tokens]
