"""Stage `extract`: one pass of a model over its data, every wanted layer into its own store."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saelib.arrays import open_rows
from saelib.config import Config, ExtractionConfig, ModelConfig
from saelib.config.sources import ArraysSource
from saelib.datasets import open_dataset
from saelib.errors import UserError
from saelib.progress import progress
from saelib.rows import read_float32
from saelib.sources import open_source
from saelib.store import SPLITS, Split, StoreMetadata, StoreWriter, published_stores
from saelib.store.places import Place

if TYPE_CHECKING:
    from saelib.plan import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Batch:
    """What one forward pass gave."""

    layers: dict[int, NDArray[np.float32]]
    """Layer -> [tokens, d_in]."""
    example: NDArray[np.int32]
    """[tokens]: the number of the example within its split."""
    ids: list[str]
    """Ids of the examples in this batch, the first of which has number `first`."""
    first: int


def run(config: Config, job: "Job") -> None:
    """Make the stores of the job's targets, all of one model."""
    name = job.targets[0].model
    keys = {target.layer: target.key for target in job.targets}
    stores = {target.layer: config.store_path(name, target.layer) for target in job.targets}
    extract(name, config, keys, stores)


def extract(name: str, config: Config, keys: dict[int, str], stores: Mapping[int, Path | str]) -> None:
    """Run model `name` once over its data and publish a store for each layer of `keys`.

    Nothing is published unless the whole pass succeeds.

    Raises:
        UserError: for too little data, an unknown layer, or activations that are not finite.
    """
    model, settings = config.models[name], config.extraction
    layers = sorted(keys)
    tokens: dict[Split, int] = {"train": settings.tokens, "heldout": settings.heldout_tokens}
    examples: dict[str, int] = {}
    writers: dict[int, StoreWriter] = {}
    with published_stores(stores, keys) as drafts:
        stream = _batches(model, config, layers)
        with progress(f"extract {name}", sum(tokens.values()), "tokens", log) as advance:
            for split in SPLITS:
                examples[split] = 0
                left = tokens[split]
                for batch in stream(split):
                    check_width(name, batch, model.width)
                    check_finite(name, batch)
                    if not writers:
                        writers = {
                            layer: _writer(drafts[layer], batch.layers[layer], tokens, settings, config.seed)
                            for layer in layers
                        }
                    example = batch.example[:left]
                    for layer, writer in writers.items():
                        writer.append(split, batch.layers[layer][:left], example)
                    examples[split] = int(example[-1]) + 1 if len(example) else examples[split]
                    left -= len(example)
                    advance(len(example))
                    if not left:
                        break
                if left:
                    got = tokens[split] - left
                    raise UserError(
                        f"{name}: its data give {got} {split} tokens, {tokens[split]} are asked for; lower "
                        f"extraction.{'tokens' if split == 'train' else 'heldout_tokens'} or give more data"
                    )
        for layer, writer in writers.items():
            writer.finish(_metadata(name, layer, config, writer, keys[layer], examples))


def check_width(name: str, batch: Batch, width: int | None) -> None:
    """Raise `UserError` where a layer is not as wide as the config says."""
    for layer, acts in batch.layers.items():
        if width is not None and acts.shape[1] != width:
            raise UserError(
                f"{name} layer {layer}: {acts.shape[1]} dimensions, but models.{name}.width is {width}; "
                "another model than the config means, or a wrong width"
            )


def check_finite(name: str, batch: Batch) -> None:
    """Raise `UserError` where a batch holds NaN or infinity: which layer, which examples, how many values."""
    for layer, acts in batch.layers.items():
        # One sum over the batch tells: NaN and infinity survive addition. Only then look where.
        if np.isfinite(np.sum(acts)):
            continue
        bad = ~np.isfinite(acts)
        numbers = np.unique(batch.example[bad.any(axis=1)]) - batch.first
        if not len(numbers):
            continue
        shown = ", ".join(batch.ids[number] for number in numbers[:5])
        more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
        raise UserError(
            f"{name} layer {layer}: {int(bad.sum())} of {acts.size} activations in this batch are not finite "
            f"({int(np.isnan(acts).sum())} NaN), in the examples {shown}{more}; a wider extraction.dtype may help"
        )


def _batches(model: ModelConfig, config: Config, layers: Sequence[int]):
    """A function from split to its batches. The model is loaded here, once."""
    if isinstance(model.source, ArraysSource):
        return _array_batches(model.source, config, layers)
    import torch

    torch.set_num_threads(config.extraction.threads)
    source_config = model.source
    source = open_source(source_config, pick_device(), source_config.dtype or config.extraction.dtype)
    dataset = open_dataset(config.datasets[model.dataset or ""])

    def batches(split: Split) -> Iterator[Batch]:
        examples = dataset.examples(split, config.seed, config.heldout_fraction)
        first = 0
        while chunk := list(islice(examples, source_config.batch_size)):
            acts = source.forward(chunk, layers)
            example = np.repeat(np.arange(first, first + len(chunk), dtype=np.int32), acts.tokens_per_example)
            if len(example):  # examples may give no token: too long, and `long: skip`
                yield Batch(acts.layers, example, [one.id for one in chunk], first)
            first += len(chunk)

    return batches


def _array_batches(source: ArraysSource, config: Config, layers: Sequence[int]):
    """Rows of files: the last ones are held out, because neighbours often come from one document."""
    rows = {layer: open_rows(source.files[layer]) for layer in layers}
    counts = {opened.shape[0] for opened in rows.values()}
    if len(counts) > 1:
        raise UserError(f"the layers' files have different numbers of rows: {', '.join(map(str, sorted(counts)))}")
    heldout_start = counts.pop() - config.extraction.heldout_tokens

    def batches(split: Split) -> Iterator[Batch]:
        start, end = (0, heldout_start) if split == "train" else (heldout_start, None)
        end = end if end is not None else heldout_start + config.extraction.heldout_tokens
        for first in range(max(0, start), end, 4096):
            stop = min(first + 4096, end)
            numbers = np.arange(first - start, stop - start, dtype=np.int32)
            ids = [f"row {row}" for row in range(first, stop)]
            yield Batch(
                {layer: read_float32(rows[layer], first, stop) for layer in layers}, numbers, ids, first - start
            )

    return batches


def _writer(
    draft: Place, acts: NDArray[np.float32], tokens: dict[Split, int], settings: ExtractionConfig, seed: int
) -> StoreWriter:
    return StoreWriter(
        draft,
        tokens=tokens,
        d_in=acts.shape[1],
        offset=acts.mean(axis=0, dtype=np.float64),
        chunk_rows=settings.chunk_rows,
        window_rows=settings.window_rows,
        seed=seed,
    )


def _metadata(
    name: str, layer: int, config: Config, writer: StoreWriter, key: str, examples: dict[str, int]
) -> StoreMetadata:
    model = config.models[name]
    return StoreMetadata(
        key=key,
        model=name,
        layer=layer,
        d_in=len(writer.offset),
        train_tokens=config.extraction.tokens,
        heldout_tokens=config.extraction.heldout_tokens,
        chunk_rows=config.extraction.chunk_rows,
        index_rows=writer.index_rows,
        dtypes=writer.dtypes,
        examples=examples,
        dataset=model.dataset or "arrays",
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("saelib", "numpy", "torch", "transformers", "zarr")}


def pick_device() -> str:
    """A CUDA device where there is one, else Apple's, else the processor."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
