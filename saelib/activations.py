"""A model's activations as they come: batch after batch of a split, several layers from one forward pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saelib.arrays import open_rows
from saelib.config import Config, ModelConfig
from saelib.config.sources import ArraysSource
from saelib.datasets import open_dataset
from saelib.errors import UserError
from saelib.rows import read_float32
from saelib.sources import open_source
from saelib.store import Split

ARRAY_ROWS = 4096
"""Rows of files that are read at a time."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one forward pass gave."""

    number: int
    """Of the pass within its split, from 0; passes that gave no token are counted and left out."""
    layers: dict[int, NDArray[np.float32]]
    """Layer -> [tokens, d_in]."""
    example: NDArray[np.int32]
    """[tokens]: the number of the example within its split."""
    ids: list[str]
    """Ids of the examples in this batch, the first of which has number `first`."""
    first: int


class OpenBatches(Protocol):
    """A model that is ready to run."""

    def __call__(self, split: Split, start: int = 0) -> Iterator[Batch]:
        """The batches of a split from number `start` on, once each, in an order that the config alone decides.

        Nothing is computed for those before `start`. All activations are finite, and as wide as the config says.

        Raises:
            UserError: for an unknown layer, another width, or activations that are not finite.
        """
        ...


def open_batches(name: str, config: Config, layers: Sequence[int]) -> OpenBatches:
    """Load a model of the suite, once; its batches hold the residual stream of each of `layers`."""
    model = config.models[name]
    if isinstance(model.source, ArraysSource):
        found = _of_files(model.source, config, layers)
        advice = "; its file holds NaN, infinity or values too large for float32"
    else:
        found = _of_model(model, config, layers)
        narrow = (model.source.dtype or config.extraction.dtype) != "float32"
        advice = "; a wider extraction.dtype may help" if narrow else ""

    def checked(split: Split, start: int = 0) -> Iterator[Batch]:
        for batch in found(split, start):
            _check_width(name, batch, model.width)
            _check_finite(name, batch, advice)
            yield batch

    return checked


def _of_model(model: ModelConfig, config: Config, layers: Sequence[int]) -> OpenBatches:
    import torch

    assert not isinstance(model.source, ArraysSource)
    torch.set_num_threads(config.extraction.threads)
    size = model.source.batch_size
    source = open_source(model.source, pick_device(), model.source.dtype or config.extraction.dtype)
    dataset = open_dataset(config.datasets[model.dataset or ""])

    def batches(split: Split, start: int = 0) -> Iterator[Batch]:
        first = start * size
        examples = islice(dataset.examples(split, config.seed, config.heldout_fraction), first, None)
        while chunk := list(islice(examples, size)):
            acts = source.forward(chunk, layers)
            example = np.repeat(np.arange(first, first + len(chunk), dtype=np.int32), acts.tokens_per_example)
            if len(example):  # examples may give no token: too long, and `long: skip`
                yield Batch(first // size, acts.layers, example, [one.id for one in chunk], first)
            first += len(chunk)

    return batches


def _of_files(source: ArraysSource, config: Config, layers: Sequence[int]) -> OpenBatches:
    """Rows of files: the last ones are held out, because neighbours often come from one document."""
    rows = {layer: open_rows(source.files[layer]) for layer in layers}
    counts = {opened.shape[0] for opened in rows.values()}
    if len(counts) > 1:
        raise UserError(f"the layers' files have different numbers of rows: {', '.join(map(str, sorted(counts)))}")
    heldout_start = counts.pop() - config.extraction.heldout_tokens

    def batches(split: Split, start: int = 0) -> Iterator[Batch]:
        begin, end = (0, heldout_start) if split == "train" else (heldout_start, None)
        end = end if end is not None else heldout_start + config.extraction.heldout_tokens
        begin = max(0, begin)
        for number, at in enumerate(range(begin + start * ARRAY_ROWS, end, ARRAY_ROWS), start):
            stop = min(at + ARRAY_ROWS, end)
            example = np.arange(at - begin, stop - begin, dtype=np.int32)
            ids = [f"row {row}" for row in range(at, stop)]
            acts = {layer: read_float32(rows[layer], at, stop) for layer in layers}
            yield Batch(number, acts, example, ids, at - begin)

    return batches


def pick_device() -> str:
    """A CUDA device where there is one, else Apple's, else the processor."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_width(name: str, batch: Batch, width: int | None) -> None:
    for layer, acts in batch.layers.items():
        if width is not None and acts.shape[1] != width:
            raise UserError(
                f"{name} layer {layer}: {acts.shape[1]} dimensions, but models.{name}.width is {width}; "
                "another model than the config means, or a wrong width"
            )


def _check_finite(name: str, batch: Batch, advice: str) -> None:
    """Which layer, which examples, how many values; `advice` ends the message."""
    for layer, acts in batch.layers.items():
        # One sum over the batch tells: NaN and infinity survive addition. Only then look where.
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.sum(acts)
        if np.isfinite(total):
            continue
        bad = ~np.isfinite(acts)
        numbers = np.unique(batch.example[bad.any(axis=1)]) - batch.first
        if not len(numbers):
            continue
        shown = ", ".join(batch.ids[number] for number in numbers[:5])
        more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
        raise UserError(
            f"{name} layer {layer}: {int(bad.sum())} of {acts.size} activations in this batch are not finite "
            f"({int(np.isnan(acts).sum())} NaN), in the examples {shown}{more}{advice}"
        )
