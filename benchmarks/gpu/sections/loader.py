"""Getting a training batch: from a store as it is and whitened, and from float16 rows that stay on the device."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch

from benchmarks.gpu.card import Card
from benchmarks.gpu.report import Row
from saelib.activations.rows import ArrayRows, Rows
from saelib.evaluation.space import PreparedRows
from saelib.preprocessing.transform import Preprocessing
from saelib.train.batches_from_store import ShuffledBatches

DIFFERENT = "batches unlike the CPU's"


def rows(card: Card) -> Iterator[Row]:
    """Milliseconds of a batch; the batches must be those that a CPU gets, bit for bit."""
    batch = card.either(4096, 256)
    for d_in in card.either((768, 4096), (32,)):
        values = _values(card.either(2**29 // (2 * d_in), 2048), d_in)
        stored = ArrayRows(values, offset=np.ones(d_in, np.float32))
        whitened = PreparedRows(stored, Preprocessing(np.zeros(d_in), np.eye(d_in, dtype=np.float32)))
        per_epoch = len(values) // batch
        for title, source, batches in (("stored", stored, 2 * per_epoch), ("whitened", whitened, -(-per_epoch // 4))):
            loader = ShuffledBatches(source, batch, seed=0, device=card.device).batches()
            pace = card.paced(lambda loader=loader: next(loader), batches)
            figures = {"ms": pace.ms, DIFFERENT: _different(card, source, batch)}
            yield Row(f"d_in {d_in:,}, {title}", figures, {DIFFERENT: 0})
        yield Row(f"d_in {d_in:,}, float16 on the device", {"ms": _resident(card, values, batch)})
        card.free()


def _values(tokens: int, d_in: int) -> np.ndarray:
    """Rows as a store holds them; drawn once and repeated, because drawing them would take longer than the rest."""
    few = np.random.default_rng(0).standard_normal((min(tokens, 16_384), d_in), dtype=np.float32).astype(np.float16)
    return np.tile(few, (-(-tokens // len(few)), 1))[:tokens]


def _different(card: Card, source: Rows, batch: int) -> int:
    both = (ShuffledBatches(source, batch, seed=1, device=device).batches() for device in (card.device, "cpu"))
    return sum(not torch.equal(ours.cpu(), theirs) for ours, theirs in islice(zip(*both, strict=True), 2))


def _resident(card: Card, values: np.ndarray, batch: int) -> float:
    store = torch.from_numpy(values).to(card.device)
    offset = torch.ones(values.shape[1], device=card.device)
    chosen = torch.randperm(len(values), device=card.device)[:batch]
    return card.median_ms(lambda: store.index_select(0, chosen).float().add_(offset))
