"""Stage `extract`: runs a model once over its data and writes each wanted layer into its own store."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saelib.config import Config
from saelib.config.sites import Layer, in_order, number_of, site_of
from saelib.errors import UserError
from saelib.extract.batches import open_batches
from saelib.extract.shortage import too_few_tokens
from saelib.progress import progress
from saelib.store import SPLITS, Split, StoreMetadata, StoreWriter, published_stores
from saelib.store.places import Place
from saelib.store.rounding import choose_offset

if TYPE_CHECKING:
    from saelib.pipeline.plan import Job
    from saelib.store.kept import KeptStores

log = logging.getLogger(__name__)


def run(config: Config, job: "Job", kept: "KeptStores | None" = None) -> None:
    """Writes the stores of the job's targets, which all belong to one model; see `extract` for `kept`."""
    name = job.targets[0].model
    keys = {target.layer: target.key for target in job.targets}
    stores = {target.layer: config.store_path(name, target.layer) for target in job.targets}
    extract(name, config, keys, stores, kept)


def extract(
    name: str,
    config: Config,
    keys: Mapping[Layer, str],
    stores: Mapping[Layer, Path | str],
    kept: "KeptStores | None" = None,
) -> None:
    """Runs the model `name` once over its data and publishes a store for each layer, or site of a layer, in `keys`.

    Nothing is published unless the whole pass succeeds. With `kept`, the rows of the layers that fit stay on its
    device as well, for the stages that read them next.

    Raises:
        UserError: for too little data, an unknown layer, or activations that are not finite.
    """
    settings = config.extraction
    layers = in_order(keys)
    tokens: dict[Split, int] = {"train": settings.tokens, "heldout": settings.heldout_tokens}
    examples: dict[str, int] = {}
    writers: dict[Layer, StoreWriter] = {}
    with published_stores(stores, keys) as drafts:
        batches = open_batches(name, config, layers)
        with progress(f"extract {name}", sum(tokens.values()), "tokens", log) as advance:
            for split in SPLITS:
                examples[split] = 0
                left = tokens[split]
                for batch in batches(split):
                    if not writers:
                        writers = {
                            layer: _writer(name, layer, drafts[layer], batch.layers[layer], tokens, config, kept)
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
                    raise UserError(too_few_tokens(config, name, split, tokens[split] - left, examples[split]))
        _log_precision(name, writers)
        for layer, writer in writers.items():
            writer.finish(_metadata(name, layer, config, writer, keys[layer], examples))


def _log_precision(name: str, writers: Mapping[Layer, StoreWriter]) -> None:
    wide = {layer: writer.reasons for layer, writer in writers.items() if writer.reasons}
    for layer, reasons in wide.items():
        for split, reason in reasons.items():
            log.info("%s layer %s: the %s rows are stored in float32: %s", name, layer, split, reason)
    if len(wide) < len(writers):
        log.info("%s: float16 is precise enough for every row of %d layers", name, len(writers) - len(wide))


def _writer(
    name: str,
    layer: Layer,
    draft: Place,
    acts: NDArray[np.float32],
    tokens: dict[Split, int],
    config: Config,
    kept: "KeptStores | None",
) -> StoreWriter:
    settings, offset = config.extraction, choose_offset(acts)
    return StoreWriter(
        draft,
        tokens=tokens,
        d_in=acts.shape[1],
        offset=offset,
        chunk_rows=settings.chunk_rows,
        window_rows=settings.window_rows,
        seed=config.seed,
        kept=kept and kept.start(layer, f"{name} layer {layer}", tokens, offset, settings.chunk_rows),
    )


def _metadata(
    name: str, layer: Layer, config: Config, writer: StoreWriter, key: str, examples: dict[str, int]
) -> StoreMetadata:
    model = config.models[name]
    return StoreMetadata(
        key=key,
        model=name,
        layer=number_of(layer),
        site=site_of(layer),
        d_in=len(writer.offset),
        train_tokens=config.extraction.tokens,
        heldout_tokens=config.extraction.heldout_tokens,
        chunk_rows=config.extraction.chunk_rows,
        index_rows=writer.index_rows,
        dtypes=writer.dtypes,
        reasons=writer.reasons,
        examples=examples,
        dataset=model.dataset or "arrays",
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("saelib", "numpy", "torch", "transformers", "zarr")}
