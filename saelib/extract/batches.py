"""Runs a model on its data: yields the activations of several layers, batch after batch of a split."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saelib.activations.open import FileRows, open_rows
from saelib.activations.rows import Rows, read_float32
from saelib.config import Config, ModelConfig
from saelib.config.sites import Layer, number_of
from saelib.config.sources import ArraysSource
from saelib.datasets import open_dataset
from saelib.devices.cards import job_device
from saelib.devices.memory import explained_shortage, gigabytes
from saelib.errors import UserError
from saelib.sources import open_source
from saelib.sources.base import rows_left_on_device
from saelib.sources.precision import exact_float32
from saelib.store import Split

ARRAY_ROWS = 4096
"""Number of rows of activation files that are read at a time."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The result of one forward pass."""

    number: int
    """Number of the pass within its split, from 0; passes without tokens are counted, but not yielded."""
    layers: Mapping[Layer, Any]
    """Layer, or site of a layer -> float32 [tokens, d_in]: an array, or a tensor if `open_batches` was told so."""
    example: NDArray[np.int32]
    """[tokens]: the number of each token's example within its split."""
    ids: list[str]
    """Ids of the examples in this batch."""
    first: int
    """Number of the first of these examples within its split."""


class OpenBatches(Protocol):
    """A model that is ready to run."""

    def __call__(self, split: Split, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of a split from number `start` on, once each, in an order that only the config decides.

        Batches before `start` are not computed. All activations are finite and have the width that the config says.

        Raises:
            UserError: for an unknown layer, a wrong width, or activations that are not finite.
        """
        ...


def open_batches(
    name: str, config: Config, layers: Sequence[Layer], device: str | None = None, *, leave: bool = False
) -> OpenBatches:
    """Loads a model of the suite. Each of its batches holds all `layers`, at the sites that are asked for.

    Without `device`, it runs on the device of `extraction.device`, where a GPU is this process's own until it ends.
    With `leave`, activations stay where the model computed them, as tensors; files and plug-ins still give arrays.
    """
    model = config.models[name]
    if isinstance(model.source, ArraysSource):
        found = _of_files(model.source, config, layers)
        advice = "; leave them out of the files (beyond 3e38 a value is infinite in float32)"
    else:
        found = _of_model(name, model, config, layers, device, leave)
        narrow = (model.source.dtype or config.extraction.dtype) != "float32"
        advice = "; a wider extraction.dtype may help" if narrow else ""

    def checked(split: Split, start: int = 0) -> Iterator[Batch]:
        for batch in found(split, start):
            _check_width(name, batch, model.width)
            _check_finite(name, batch, advice)
            yield batch

    return checked


def _of_model(
    name: str, model: ModelConfig, config: Config, layers: Sequence[Layer], device: str | None, leave: bool
) -> OpenBatches:
    import torch

    assert not isinstance(model.source, ArraysSource)
    torch.set_num_threads(config.extraction.threads)
    size = model.source.batch_size
    spread = getattr(model.source, "device_map", None) is not None
    device = device or job_device(config.extraction.device, "extraction.device", spread=spread)

    def shortage(usable: float) -> str:
        return _shortage(name, size, usable)

    with exact_float32(), explained_shortage(shortage):  # undoes what the model's own code changes in torch's settings
        source = open_source(model.source, device, model.source.dtype or config.extraction.dtype)
    if model.blocks is not None and source.n_layers != model.blocks:
        raise UserError(
            f"{name}: its last layer is {source.n_layers}, but models.{name}.blocks is {model.blocks}; it is not the "
            "model that the config means, or the number is wrong"
        )
    dataset = open_dataset(config.datasets[model.dataset or ""])

    def batches(split: Split, start: int = 0) -> Iterator[Batch]:
        first = start * size
        examples = islice(dataset.examples(split, config.seed, config.heldout_fraction), first, None)
        while chunk := list(islice(examples, size)):
            with exact_float32(), explained_shortage(shortage), rows_left_on_device() if leave else nullcontext():
                acts = source.forward(chunk, layers)
            example = np.repeat(np.arange(first, first + len(chunk), dtype=np.int32), acts.tokens_per_example)
            if len(example):  # with `long: skip`, all examples may be too long
                yield Batch(first // size, acts.layers, example, [one.id for one in chunk], first)
            first += len(chunk)

    return batches


def _shortage(name: str, examples: int, usable: float) -> str:
    """Returns the message that a model or its batch does not fit on the GPU."""
    source = f"models.{name}.source"
    smaller = f"set {source}.batch_size: {examples // 2}, " if examples > 1 else f"lower {source}.max_length, "
    return (
        f"{name}: the {gigabytes(usable)} that the GPU has for it do not hold the model with a batch of {examples} "
        f"examples; {smaller}{source}.batch_tokens, a narrower {source}.dtype, or {source}.device_map: auto on several "
        "GPUs"
    )


def _of_files(source: ArraysSource, config: Config, layers: Sequence[Layer]) -> OpenBatches:
    """Opens files of activations as batches; the last rows are held out.

    Held-out rows are not drawn at random because neighboring rows often come from one document. All rows of one example
    in an array [examples, context, d_in] are in the same split.
    """
    numbers = [number_of(layer) for layer in layers]  # files have no other sites
    rows = {layer: open_rows(source.files[layer], source.fill_missing_chunks) for layer in numbers}
    total, context = _same_rows(source, rows), _same_context(rows)
    settings = config.extraction
    heldout_start = (total - settings.heldout_tokens) // context * context
    if heldout_start < settings.tokens:
        apart = f" ({context} rows of one example stay in one split)" if context > 1 else ""
        raise UserError(
            f"{source.files[numbers[0]]}: has {total:,} rows; extraction.tokens {settings.tokens:,} and "
            f"extraction.heldout_tokens {settings.heldout_tokens:,} need {settings.tokens + settings.heldout_tokens:,}"
            f"{apart}; lower them, or give longer files"
        )

    def batches(split: Split, start: int = 0) -> Iterator[Batch]:
        begin, end = (0, heldout_start) if split == "train" else (heldout_start, total)
        for number, at in enumerate(range(begin + start * ARRAY_ROWS, end, ARRAY_ROWS), start):
            stop = min(at + ARRAY_ROWS, end)
            example = (np.arange(at, stop) // context - begin // context).astype(np.int32)
            # Messages call an example by the number of its first row in this batch.
            ids = [f"row {max(at, row)}" for row in range(at // context * context, stop, context)]
            acts: dict[Layer, NDArray[np.float32]] = {layer: read_float32(rows[layer], at, stop) for layer in numbers}
            yield Batch(number, acts, example, ids, int(example[0]))

    return batches


def _same_rows(source: ArraysSource, rows: Mapping[int, Rows]) -> int:
    counts = {opened.shape[0]: layer for layer, opened in rows.items()}
    if len(counts) > 1:
        shown = ", ".join(f"{source.files[layer]} {count:,}" for count, layer in counts.items())
        raise UserError(
            f"the layers' files have different numbers of rows ({shown}); row i should be the same token in all of them"
        )
    return next(iter(counts))


def _same_context(rows: Mapping[int, Rows]) -> int:
    """Returns the number of rows of one example; 1 if the files do not say, or disagree."""
    contexts = {opened.context if isinstance(opened, FileRows) else 1 for opened in rows.values()}
    return contexts.pop() if len(contexts) == 1 else 1


def _check_width(name: str, batch: Batch, width: int | None) -> None:
    for layer, acts in batch.layers.items():
        if width is not None and acts.shape[1] != width:
            raise UserError(
                f"{name} layer {layer}: {acts.shape[1]} dimensions, but models.{name}.width is {width}; it is not the "
                "model that the config means, or the width is wrong"
            )


def _check_finite(name: str, batch: Batch, advice: str) -> None:
    """Raises `UserError` with the layer, the examples and the number of values that are not finite, and `advice`."""
    for layer, acts in batch.layers.items():
        # NaN and infinity survive addition, so one sum shows whether there are any. They are located only then.
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(acts.sum())
        if math.isfinite(total):
            continue
        bad = ~np.isfinite(np.asarray(acts if isinstance(acts, np.ndarray) else acts.cpu()))
        numbers = np.unique(batch.example[bad.any(axis=1)]) - batch.first
        if not len(numbers):
            continue
        shown = ", ".join(batch.ids[number] for number in numbers[:5])
        more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
        raise UserError(
            f"{name} layer {layer}: {int(bad.sum())} of {bad.size} activations in this batch are not finite "
            f"({int((acts != acts).sum())} NaN), in the examples {shown}{more}{advice}"
        )
