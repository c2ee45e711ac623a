"""Data of the latents: the columns of the list, which is loaded first, and scripts with all that is known of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.features.choose import LatentExamples, Shown
from saelib.features.examples import Examples
from saelib.features.scripts import rounded, write_script

if TYPE_CHECKING:
    import polars as pl

    from saelib.features.directions import Neighbors

PER_CHUNK = 64
"""Latents in one script."""
PREVIEWS = 3
"""Peaks of a latent that the list shows."""
MAP_STEPS = 4095
"""The map's coordinates are whole numbers up to this."""


def write_latents(folder: Path, found: Sequence[LatentExamples], near: "Neighbors | None") -> None:
    """Writes scripts of `PER_CHUNK` latents each, with their examples and, if these are known, their neighbors."""
    for start in range(0, len(found), PER_CHUNK):
        records = [
            {
                "largest": rounded([found[latent].largest])[0],
                "histogram": found[latent].histogram,
                "top": [_packed(one) for one in found[latent].top],
                "random": [_packed(one) for one in found[latent].random],
                "near": near.latents[latent].tolist() if near else [],
                "cosines": rounded(near.cosines[latent].tolist(), 3) if near else [],
            }
            for latent in range(start, min(start + PER_CHUNK, len(found)))
        ]
        write_script(folder, f"latents/{start // PER_CHUNK}", records)


def _packed(shown: Shown) -> list[Any]:
    """Packs an example as [example, peak, tokens and levels in turn]; tokens as steps from the one before."""
    steps = np.diff(shown.tokens, prepend=0)
    return [shown.example, shown.peak, np.column_stack([steps, shown.levels]).ravel().tolist()]


def list_columns(
    latents: "pl.DataFrame", found: Sequence[LatentExamples], examples: Examples, places: NDArray[np.floating] | None
) -> dict[str, Any]:
    """Makes the columns of the list, and the map's. Texts that repeat are written once, and called by their number.

    Args:
        latents: One row per latent, in order.
        found: What is shown of each latent.
        examples: The examples.
        places: Each latent's place on the map, [latents, 2], from 0 to 1, if there is a map.
    """
    # A latent with an F1 of 0 on the test half stands for no concept, whatever the validation half chose for it.
    scores = [score or None for score in latents["concept_f1"]]
    named = zip(latents["concept"], scores, strict=True)
    concepts, concept = _numbered([name if score is not None else None for name, score in named])
    saes, sae = _numbered(latents["twin_sae"].to_list())
    previews: list[Any] = []
    for latent in found:
        if examples.kind in ("text", "sequence"):
            previews.append(list(dict.fromkeys(examples.peak_text(one) for one in latent.top))[:PREVIEWS])
        elif examples.kind == "image":
            previews.append([examples.peak_patch(one) for one in latent.top[:PREVIEWS]])
    return {
        "density": rounded(latents["density"].to_list()),
        "largest": rounded(latents["max_activation"].to_list()),
        "state": latents["state"].to_list(),
        "concepts": concepts,
        "concept": concept,
        "score": rounded(scores, 3),
        "saes": saes,
        "sae": sae,
        "twin": latents["twin"].to_list(),
        "cosine": rounded(latents["twin_cosine"].to_list(), 3),
        "peaks": previews,
        "places": None if places is None else np.rint(places * MAP_STEPS).astype(int).ravel().tolist(),
    }


def _numbered(texts: list[str | None]) -> tuple[list[str], list[int | None]]:
    """Returns the different texts, and for each text its number among them."""
    number = {text: place for place, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
    return list(number), [None if text is None else number[text] for text in texts]
