"""The pages of one SAE's latents: `index.html` and the scripts and pictures that it loads when they are needed."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.features.choose import LEVELS, LatentExamples, latent_examples
from saelib.features.examples import Examples
from saelib.features.index import Names, render_index
from saelib.features.latents import PER_CHUNK, list_columns, write_latents
from saelib.features.scripts import chunked, write_script
from saelib.files.publish import published_folder
from saelib.progress import progress

if TYPE_CHECKING:
    import polars as pl

    from saelib.evaluation.seen import Seen

log = logging.getLogger(__name__)


def write_pages(
    out: Path,
    seen: "Seen",
    sae: str,
    names: Names,
    decoder: NDArray[np.floating] | None = None,
    annotations: "pl.DataFrame | None" = None,
    structures: Mapping[int, Path] | None = None,
    seed: int = 0,
) -> Path:
    """Writes the pages of an SAE's latents, which open from disk without a network, and returns `out/index.html`.

    Args:
        out: The folder to write, which is replaced as a whole.
        seen: The evaluation of the layer.
        sae: Name of the SAE in it.
        names: What the page calls the SAE, and where it links to.
        decoder: Its decoder directions [latents, d]. Without them, the page has no neighbors and no map.
        annotations: Parts of the examples to show along them, with the columns example, start, end and concept.
        structures: Number of an example -> the file of its structure (`saelib.features.structures`).
        seed: Decides the random examples and the layout of the map.

    Raises:
        UserError: If the files of the evaluation do not fit together.
    """
    with published_folder(out) as draft:
        fill_pages(draft, seen, sae, names, decoder, annotations, structures, seed)
    return out / "index.html"


def fill_pages(
    draft: Path,
    seen: "Seen",
    sae: str,
    names: Names,
    decoder: NDArray[np.floating] | None,
    annotations: "pl.DataFrame | None",
    structures: Mapping[int, Path] | None,
    seed: int,
) -> dict[str, int]:
    """Writes the pages into an empty folder; the rest is as in `write_pages`.

    Returns:
        Number of `latents`, of `alive`, `dense` and `dead` ones, and of `tokens` and `examples`.
    """
    from saelib.features.directions import layout, nearest

    codes, latents, examples = (
        seen.codes(sae),
        seen.latents(sae).sort("latent"),
        Examples(seen, annotations, structures),
    )
    _check(seen, sae, codes, latents.height, decoder)
    found: list[LatentExamples] = []
    with progress(f"latents of {sae}", codes.shape[1], "latents", log) as advance:
        for one in latent_examples(codes, examples.first_token, seed, whole=examples.kind == "image"):
            found.append(one)
            advance(1)
    chunks = _write_examples(draft, examples, found)
    near = nearest(decoder) if decoder is not None and len(decoder) > 1 else None
    write_latents(draft / "data", found, near)
    places = layout(decoder, near, seed) if decoder is not None and near else None
    columns = list_columns(latents, found, examples, places)
    write_script(draft / "data", "list", columns | {"first_of_chunk": chunks})
    about = {
        "sae": sae,
        "kind": examples.kind,
        "latents": len(found),
        "per_chunk": PER_CHUNK,
        "levels": LEVELS,
        "twins": dict(names.twins),
    }
    counts = {"latents": len(found), "alive": 0, "dense": 0, "dead": 0, "tokens": codes.shape[0]}
    counts |= {"examples": len(examples.rows)} | dict(latents["state"].value_counts().iter_rows())
    page = render_index(names, about, counts, has_map=places is not None)
    (draft / "index.html").write_text(page, encoding="utf-8")
    return counts


def _check(seen: "Seen", sae: str, codes: Any, rows: int, decoder: NDArray[np.floating] | None) -> None:
    """Raises `UserError` if codes, tokens, latents and decoder have different sizes."""
    tokens, width = codes.shape
    if tokens != seen.tokens.height:
        raise UserError(
            f"{seen.folder}: codes of '{sae}' have {tokens} tokens, tokens.parquet has {seen.tokens.height}"
        )
    if width != rows:
        raise UserError(f"{seen.folder}: codes of '{sae}' have {width} latents, its latents.parquet has {rows}")
    if decoder is not None and len(decoder) != width:
        raise UserError(f"{seen.folder}: codes of '{sae}' have {width} latents, the SAE's decoder has {len(decoder)}")


def _write_examples(draft: Path, examples: Examples, found: list[LatentExamples]) -> list[int]:
    """Writes the examples that any latent shows, and returns the number of the first example of each chunk."""
    shown = [one for latent in found for one in (*latent.top, *latent.random)]
    examples.write_pictures(draft / "pictures", shown)
    examples.write_structures(draft / "data", shown)
    first = []
    for number, chunk in enumerate(chunked(examples.records(shown))):
        first.append(min(chunk))
        write_script(draft / "data", f"examples/{number}", chunk)
    return first
