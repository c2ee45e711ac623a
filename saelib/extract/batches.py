"""A model's activations as they come: batch after batch of a split, several layers from one forward pass."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saelib.activations.open import FileRows, open_rows
from saelib.activations.rows import Rows, read_float32
from saelib.config import Config, ModelConfig
from saelib.config.sources import ArraysSource
from saelib.datasets import open_dataset
from saelib.errors import UserError
from saelib.sources import open_source
from saelib.sources.precision import exact_float32
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
        advice = "; leave them out of the files (beyond 3e38 a value is infinite in float32)"
    else:
        found = _of_model(name, model, config, layers)
        narrow = (model.source.dtype or config.extraction.dtype) != "float32"
        advice = "; a wider extraction.dtype may help" if narrow else ""

    def checked(split: Split, start: int = 0) -> Iterator[Batch]:
        for batch in found(split, start):
            _check_width(name, batch, model.width)
            _check_finite(name, batch, advice)
            yield batch

    return checked


def _of_model(name: str, model: ModelConfig, config: Config, layers: Sequence[int]) -> OpenBatches:
    import torch

    assert not isinstance(model.source, ArraysSource)
    torch.set_num_threads(config.extraction.threads)
    size = model.source.batch_size
    with exact_float32():  # and what the model's own code does to torch's switches is undone
        source = open_source(model.source, pick_device(), model.source.dtype or config.extraction.dtype)
    if model.blocks is not None and source.n_layers != model.blocks:
        raise UserError(
            f"{name}: its last layer is {source.n_layers}, but models.{name}.blocks is {model.blocks}; another model "
            "than the config means, or a wrong number"
        )
    dataset = open_dataset(config.datasets[model.dataset or ""])

    def batches(split: Split, start: int = 0) -> Iterator[Batch]:
        first = start * size
        examples = islice(dataset.examples(split, config.seed, config.heldout_fraction), first, None)
        while chunk := list(islice(examples, size)):
            with exact_float32():
                acts = source.forward(chunk, layers)
            example = np.repeat(np.arange(first, first + len(chunk), dtype=np.int32), acts.tokens_per_example)
            if len(example):  # examples may give no token: too long, and `long: skip`
                yield Batch(first // size, acts.layers, example, [one.id for one in chunk], first)
            first += len(chunk)

    return batches


def _of_files(source: ArraysSource, config: Config, layers: Sequence[int]) -> OpenBatches:
    """Rows of files: the last ones are held out, because neighbors often come from one document.

    Rows of one example of [examples, context, d_in] stay in one split.
    """
    rows = {layer: open_rows(source.files[layer], source.fill_missing_chunks) for layer in layers}
    total, context = _same_rows(source, rows), _same_context(rows)
    settings = config.extraction
    heldout_start = (total - settings.heldout_tokens) // context * context
    if heldout_start < settings.tokens:
        apart = f" ({context} rows of one example stay in one split)" if context > 1 else ""
        raise UserError(
            f"{source.files[layers[0]]}: has {total:,} rows; extraction.tokens {settings.tokens:,} and "
            f"extraction.heldout_tokens {settings.heldout_tokens:,} need {settings.tokens + settings.heldout_tokens:,}"
            f"{apart}; lower them, or give longer files"
        )

    def batches(split: Split, start: int = 0) -> Iterator[Batch]:
        begin, end = (0, heldout_start) if split == "train" else (heldout_start, total)
        for number, at in enumerate(range(begin + start * ARRAY_ROWS, end, ARRAY_ROWS), start):
            stop = min(at + ARRAY_ROWS, end)
            example = (np.arange(at, stop) // context - begin // context).astype(np.int32)
            # What messages call an example: its first row here.
            ids = [f"row {max(at, row)}" for row in range(at // context * context, stop, context)]
            acts = {layer: read_float32(rows[layer], at, stop) for layer in layers}
            yield Batch(number, acts, example, ids, int(example[0]))

    return batches


def _same_rows(source: ArraysSource, rows: Mapping[int, Rows]) -> int:
    counts = {opened.shape[0]: layer for layer, opened in rows.items()}
    if len(counts) > 1:
        shown = ", ".join(f"{source.files[layer]} {count:,}" for count, layer in counts.items())
        raise UserError(f"the layers' files have different numbers of rows ({shown}); row i is one token in all")
    return next(iter(counts))


def _same_context(rows: Mapping[int, Rows]) -> int:
    """Rows of one example; 1 where the files do not say, or not the same."""
    contexts = {opened.context if isinstance(opened, FileRows) else 1 for opened in rows.values()}
    return contexts.pop() if len(contexts) == 1 else 1


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
