"""Writes the latents of a language model's SAE for Neuronpedia and for SAEDashboard, with their activating examples."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.features import dashboards, neuronpedia
from saelib.files.publish import published_folder

if TYPE_CHECKING:
    from saelib.evaluation.seen import Seen

PER_BATCH = 128
"""Latents in one file."""


def write_exports(
    seen: "Seen",
    sae: str,
    to_neuronpedia: Path | None,
    to_saedashboard: Path | None,
    decoder: NDArray[np.floating] | None = None,
    seed: int = 0,
) -> list[Path]:
    """Writes the exports that have a folder, and returns the folders that were written.

    Args:
        seen: The evaluation of the layer.
        sae: Name of the SAE in it.
        to_neuronpedia: Folder for Neuronpedia, which gets the folders `MODEL/SAE`.
        to_saedashboard: Folder for SAEDashboard, which is replaced as a whole.
        decoder: Decoder directions [latents, d], for the closest latents and the dimensions that they point along.
        seed: Decides the random examples.

    Raises:
        UserError: If the examples are no texts.
    """
    if to_neuronpedia is None and to_saedashboard is None:
        return []
    from saelib.features.directions import nearest

    source = neuronpedia.source_of(seen.folder, sae)
    found = dashboards.dashboards(seen, sae, decoder, seed)
    near = nearest(decoder) if decoder is not None and to_neuronpedia is not None else None
    written: list[Path] = []
    writers: list[Callable[[list[dict[str, Any]], int], None]] = []
    with ExitStack() as stack:
        if to_neuronpedia is not None:
            written.append(to_neuronpedia / source.model / source.id)
            draft = stack.enter_context(published_folder(written[-1]))
            neuronpedia.write_about(draft, source, seen.examples.height, 2 * dashboards.REACH)
            writers.append(partial(neuronpedia.write_latents, draft, source, near))
        if to_saedashboard is not None:
            written.append(to_saedashboard)
            draft = stack.enter_context(published_folder(to_saedashboard))
            writers.append(partial(dashboards.write_saedashboard, draft, source.model, source.block, source.sae_set))
        for number, batch in enumerate(_batches(found)):
            for write in writers:
                write(batch, number)
    return written


def _batches(found: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(found, PER_BATCH)):
        yield batch
