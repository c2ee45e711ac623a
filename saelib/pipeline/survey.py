"""Checks a model's data before any model is loaded, without a network."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from saelib.config import Config, ModelConfig
from saelib.config.datasets import DatasetConfig, Images
from saelib.config.files import HubFiles
from saelib.config.sources import ArraysSource, TokenModelSource
from saelib.datasets import Dataset, listing_of, open_dataset
from saelib.datasets.cifar10 import SmallImages
from saelib.datasets.images import ImageCrops
from saelib.errors import UserError
from saelib.extract.batches import open_batches
from saelib.extract.shortage import too_few_tokens
from saelib.fetch import is_cached, named_files
from saelib.pipeline.resources import PATCH
from saelib.store import SPLITS, Split

READ_BYTES = 20_000_000
"""Largest total size of files that are read; larger ones are only listed."""
IMAGE_BYTES = 1_000_000_000
"""The same for image files, of which only those of equal length are read, to find copies."""
SPECIAL_TOKENS = 8
"""Upper bound on the special tokens that a model adds to an image's patches."""


def data_mistakes(config: Config, name: str) -> tuple[list[str], list[str]]:
    """Lists mistakes that would end a model's extraction, and remarks on data files that are left out, one line each.

    Data that is large, on the hub or not yet on this machine is not read.
    """
    model = config.models[name]
    mistakes: list[str] = []
    notes: list[str] = []
    try:
        if isinstance(model.source, ArraysSource):
            open_batches(name, config, model.places)  # opens the files without reading them
        elif _is_here(dataset := config.datasets[model.dataset or ""]):
            found = listing_of(dataset)
            if found and (summary := found.summary()):
                notes.append(f"data '{model.dataset}': {summary}")
            if not found or _size(found.files) <= (IMAGE_BYTES if isinstance(dataset, Images) else READ_BYTES):
                mistakes += _too_few(config, name, model, open_dataset(dataset))
    except UserError as error:
        mistakes.append(str(error))
    return mistakes, notes


def _is_here(dataset: DatasetConfig) -> bool:
    files = list(named_files(dataset))
    return not getattr(dataset, "hub", None) and all(not isinstance(one, HubFiles) and is_cached(one) for one in files)


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _too_few(config: Config, name: str, model: ModelConfig, data: Dataset) -> Iterator[str]:
    """Reports splits that are too small for their tokens with any tokenizer. Reads only as much as it needs."""
    wanted = {"train": config.extraction.tokens, "heldout": config.extraction.heldout_tokens}
    for split in SPLITS:
        found = examples = 0
        for tokens in _tokens(config, model, data, split):
            found, examples = found + (tokens or 0), examples + 1
            if tokens is None or found >= wanted[split]:
                break
        else:
            yield too_few_tokens(config, name, split, found, examples, at_most=True)


def _tokens(config: Config, model: ModelConfig, data: Dataset, split: Split) -> Iterator[int | None]:
    """Yields the most tokens that each example of a split can have; None if the family does not say."""
    source, seed, fraction = model.source, config.seed, config.heldout_fraction
    if isinstance(data, ImageCrops | SmallImages):
        patch = PATCH.get(source.family)
        most = (data.size // patch) ** 2 + SPECIAL_TOKENS if patch else None
        yield from (most for _ in data.places(split, seed, fraction))
    elif not isinstance(source, TokenModelSource) or source.keep_special_tokens:
        yield from (None for _ in islice(data.examples(split, seed, fraction), 1))
    else:
        # No tokenizer makes more tokens than there are bytes, plus one for the space that some put in front.
        limit = None if source.long == "split" else source.max_length
        for example in data.examples(split, seed, fraction):
            length = len(str(example.content).encode()) + 1
            yield length if limit is None else min(length, limit)
