"""Finds what each model of a suite needs, for `saelib plan`: passes, disk, memory, missing files and packages."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saelib.activations.formats.shards import matches
from saelib.config import Config, ExtractionConfig, FilesConfig, ModelConfig
from saelib.config.files import HubFiles, LocalFiles, WebFiles
from saelib.config.sources import AlphaFold3Source, ArraysSource, SourceConfig
from saelib.environments import PACKAGES, missing_packages
from saelib.fetch import describe, is_cached, named_files
from saelib.pipeline.resources import batch_tokens, model_bytes, sweeps_of_a_job, with_known_width
from saelib.pipeline.survey import data_mistakes
from saelib.pipeline.targets import stale, wanted_targets
from saelib.store.remote import is_url


@dataclass(frozen=True)
class ModelNeeds:
    """Needs of one model of a suite. Sizes are None if its `width` is not known or its `parameters` are not stated."""

    name: str
    domain: str
    family: str
    layers: int
    stale_layers: int
    """Layers whose stores are missing or stale."""
    tokens: int
    """Rows of each store, training and held-out together."""
    passes: int
    """Runs of the model over its data: one for all stale layers together, none if all are fresh."""
    forward_passes: int | None
    """Batches in these runs if all examples have full length, else more; None if the family does not say."""
    width: int | None
    bytes: int | None
    """Size of all stores of the model on disk, in bytes."""
    streamed_tokens: int
    """Tokens that each training straight from the model reads in addition to the stores; 0 if there is none."""
    training_passes: int | None
    """Batches of all trainings straight from the model; None if the family does not say."""
    gpu_bytes: int | None
    """Estimated bytes of the weights, the recorded layers of one batch and the working memory of a block."""
    missing: list[str]
    """Reasons why the model cannot run here, one line each: packages, files, licenses, too little data."""
    notes: list[str]
    """Remarks, one line each: files to be downloaded, files that are not pinned, data files that are left out."""


def suite_needs(config: Config) -> list[ModelNeeds]:
    """Finds the needs of every model, in the order of the config, without a network and without loading a model."""
    stores = stale(target for target in wanted_targets(config) if target.stage == "extract")
    counts = Counter(target.model for target in stores)
    return [_needs(config, name, model, counts[name]) for name, model in config.models.items()]


def free_bytes(folder: Path) -> int:
    """Returns the free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free


def _needs(config: Config, name: str, model: ModelConfig, stale_layers: int) -> ModelNeeds:
    model = with_known_width(model)
    tokens = config.extraction.tokens + config.extraction.heldout_tokens
    batch = None if isinstance(model.source, ArraysSource) else batch_tokens(config, model)
    streamed = config.train.steps * config.train.batch_size if model.stream else 0
    missing = list(_missing(config, model))
    mistakes, left_out = data_mistakes(config, name)
    if isinstance(model.source, ArraysSource) and missing:
        mistakes = []  # they are about the same files
    return ModelNeeds(
        name=name,
        domain=model.domain,
        family=model.source.family,
        layers=len(model.places),
        stale_layers=stale_layers,
        tokens=tokens,
        passes=int(stale_layers > 0 and batch is not None),
        forward_passes=(math.ceil(tokens / batch) if stale_layers else 0) if batch else None,
        width=model.width,
        bytes=model.width and len(model.places) * _store_bytes(config.extraction, model.width),
        streamed_tokens=streamed,
        training_passes=training_jobs(config, model) * math.ceil(streamed / batch) if batch else None,
        gpu_bytes=model_bytes(config, model, batch) if batch else None,
        missing=missing + mistakes,
        notes=[*_notes(config, model), *left_out],
    )


def training_jobs(config: Config, model: ModelConfig) -> int:
    """Counts the jobs that train all variants on all trained layers of a model."""
    return math.ceil(len(model.trained_places) * len(config.train.variants) / sweeps_of_a_job(config, model))


def _store_bytes(settings: ExtractionConfig, width: int) -> int:
    """Computes the bytes of one layer stored in float16, as `saelib.store` writes it; the last chunk is whole too."""
    index_rows = max(1, settings.window_rows // settings.chunk_rows) * settings.chunk_rows
    total = 0
    for tokens in (settings.tokens, settings.heldout_tokens):
        total += math.ceil(tokens / settings.chunk_rows) * settings.chunk_rows * 2 * width
        total += math.ceil(tokens / index_rows) * index_rows * (4 + 4)  # norms and examples' numbers
    return total


def _missing(config: Config, model: ModelConfig) -> Iterator[str]:
    family = model.source.family
    packages = missing_packages(family)
    if packages:
        yield f"package {', '.join(packages)}: {PACKAGES[family].install}"
    yield from _missing_outputs(model.source)
    for files in _all_files(config, model):
        if isinstance(files, LocalFiles) and not is_cached(files):
            yield f"no file or folder {files.path}"
        elif isinstance(files, HubFiles) and files.gated and not _has_token() and not is_cached(files):
            yield f"license of {describe(files)}: accept it at https://huggingface.co/{files.hf} and set HF_TOKEN"


def _missing_outputs(source: SourceConfig) -> Iterator[str]:
    if isinstance(source, AlphaFold3Source) and not source.command and not source.outputs.exists():
        yield f"AlphaFold 3's outputs in {source.outputs}: set `command`, or see `saelib alphafold3-inputs --help`"
    if isinstance(source, ArraysSource):
        for file in source.files.values():
            location = file.partition("::")[0]
            if not is_url(location) and not matches(location):
                yield f"no file or folder {location}"


def _notes(config: Config, model: ModelConfig) -> Iterator[str]:
    for files in named_files(model.source):
        yield from _state(describe(files), [files])
    if model.dataset:
        dataset = config.datasets[model.dataset]
        yield from _state(f"data '{model.dataset}'", list(named_files(dataset)))
        if getattr(dataset, "hub", None):
            yield f"data '{model.dataset}': streamed from the hub, so its jobs need a network"


def _state(name: str, files: list[FilesConfig]) -> Iterator[str]:
    """Says which files will be downloaded, and which may change."""
    absent = [one for one in files if not isinstance(one, LocalFiles) and not is_cached(one)]
    loose = [one for one in files if not _pinned(one)]
    if absent:
        yield f"{name}: will be fetched{f' ({len(absent)} files)' if len(absent) > 1 else ''}"
    if loose:
        missing = "revision is no commit" if isinstance(loose[0], HubFiles) else "no sha256"
        yield f"{name}: may change ({missing})"


def _pinned(files: FilesConfig) -> bool:
    if isinstance(files, HubFiles):
        return len(files.revision) == 40
    return not isinstance(files, WebFiles) or files.sha256 is not None


def _all_files(config: Config, model: ModelConfig) -> list[FilesConfig]:
    found = list(named_files(model.source))
    return found + (list(named_files(config.datasets[model.dataset])) if model.dataset else [])


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None
