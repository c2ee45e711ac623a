"""Evaluations of each kind of data, small and hostile, in the layout of `saelib.evaluation.seen`."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from saelib.evaluation.seen import Seen, read_seen, write_codes, write_latents, write_seen
from saelib.features.index import Names
from saelib.features.pages import write_pages
from tests.report.chromium import browser

__all__ = ["browser"]

EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(2)>" onmouseover="alert(3)\' {{ 7 * 7 }} &amp;'
LINES = "\u2028\u2029\u202e\r\n\x00\ufeff"
"""Ends of lines inside JavaScript's strings before 2019, a reversal of the direction, and other signs unseen."""
LATENTS, DIMENSIONS, SAE = 70, 8, "pca-seed0"

Write = Callable[[str], Seen]


def text_tokens(text: str) -> list[tuple[int, int]]:
    """Tokens of three letters; of every second one, the blank before it is part of no token."""
    return [(start + (start % 2 and text[start] == " "), min(start + 3, len(text))) for start in range(0, len(text), 3)]


def texts() -> list[tuple[str, list[tuple[int, int]]]]:
    long = "huge " * 60_000
    emoji = "a 👩‍🚀 b"  # one sign of several code points, which tokens share
    found = [(text, text_tokens(text)) for text in (f"{EVIL} {number}" for number in range(8))]
    found += [
        (LINES, text_tokens(LINES)),
        (long, text_tokens(long)[:2000]),
        ("x" * 9000 + " end", [(0, 9000), (9000, 9004)]),
    ]
    return [*found, (emoji, [(0, 0), (0, 2), (2, 3), (2, 3), (2, 3), (3, 5), (5, 7)])]


def sequences() -> list[tuple[str, list[tuple[int, int]]]]:
    rng = np.random.default_rng(1)
    forward = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 130)) for _ in range(9)]
    found = [(text, [(i, i + 1) for i in range(len(text))]) for text in forward]
    return [*found, ("ACDEF", [(i, i + 1) for i in range(5)][::-1])]  # a model that reads backwards


def picture(number: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((28, 42, 3), 20 * number, np.uint8)).save(file, "png")
    return file.getvalue()


def tables(kind: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables of examples and tokens."""
    if kind == "image":
        boxes = [(0, 0, 42, 28), *((x, y, x + 14, y + 14) for y in (0, 14) for x in (0, 14, 28))]
        content = [(None, picture(number), boxes) for number in range(10)]
    elif kind == "row":
        content = [
            (None, None, [(row, row + 1) for row in range(10 * number, 10 * number + 10)]) for number in range(5)
        ]
    else:
        content = [(text, None, spans) for text, spans in (texts() if kind == "text" else sequences())]
    names = ("x0", "y0", "x1", "y1") if kind == "image" else ("start", "end")
    counts = [len(spans) for *_, spans in content]
    examples = {
        "example": range(len(content)),
        "id": [f"{EVIL}{number}" for number in range(len(content))],
        "kind": [kind] * len(content),
        "text": pl.Series([text for text, *_ in content], dtype=pl.String),
        "image": pl.Series([image for _, image, _ in content], dtype=pl.Binary),
        "first_token": np.cumsum([0, *counts[:-1]]),
        "tokens": counts,
    }
    rows = [
        (number, *span, place == 1) for number, (*_, spans) in enumerate(content) for place, span in enumerate(spans)
    ]
    return pl.DataFrame(examples), pl.DataFrame(rows, ["example", *names, "massive"], orient="row")


def random_codes(tokens: int, latents: int = LATENTS) -> Any:
    """Codes of which latent 0 is dead, latent 1 dense, and latent 2 of either sign."""
    rng = np.random.default_rng(0)
    values = rng.exponential(1, (tokens, latents)) * (rng.random((tokens, latents)) < 0.08)
    values[:, 0] = 0
    values[:, 1] = rng.random(tokens) + 0.1
    values[::2, 2] *= -1
    values[0, 3:] = 9  # the first token of all is a peak of every other latent
    return sparse.csc_array(values.astype(np.float32))


def latents_table(codes: Any, concept: str | None) -> pl.DataFrame:
    density = np.diff(codes.indptr) / codes.shape[0]
    largest = np.abs(codes).max(axis=0).toarray().ravel()
    count = len(density)
    return pl.DataFrame(
        {
            "latent": range(count),
            "density": density,
            "max_activation": largest,
            "state": np.where(density == 0, "dead", np.where(density > 0.1, "dense", "alive")),
            "concept": pl.Series([concept if n % 3 == 0 else None for n in range(count)], dtype=pl.String),
            "concept_f1": pl.Series([n / count if n % 3 == 0 else None for n in range(count)], dtype=pl.Float64),
            "twin_sae": [EVIL if n % 2 else "auxk-seed1" for n in range(count)],
            "twin": range(count),
            "twin_cosine": np.linspace(0, 1, count),
        }
    )


def write_evaluation(folder: Path, kind: str) -> Seen:
    examples, tokens = tables(kind)
    folder.mkdir(parents=True, exist_ok=True)
    write_seen(folder, examples, tokens)
    codes = random_codes(tokens.height)
    write_codes(folder, SAE, codes)
    write_latents(folder, SAE, latents_table(codes, f"concept {EVIL}{LINES}"))
    return read_seen(folder)


def decoder(latents: int = LATENTS) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(latents, DIMENSIONS)).astype(np.float32)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes an evaluation of the kind, once."""
    known: dict[str, Seen] = {}

    def write(kind: str) -> Seen:
        if kind not in known:
            known[kind] = write_evaluation(tmp_path_factory.mktemp(kind) / "layer_3", kind)
        return known[kind]

    return write


@pytest.fixture(scope="session")
def pages(written: Write, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the pages of an evaluation of the kind, once, and returns their folder."""
    known: dict[str, Path] = {}
    notes = pl.DataFrame(
        [(0, 2, 30, f"Helix {EVIL}"), (0, 10, 11, "Site")], ["example", "start", "end", "concept"], orient="row"
    )

    def write(kind: str) -> Path:
        if kind not in known:
            names = Names(f"{SAE} {EVIL}", EVIL, "../report.html", {"auxk-seed1": "../auxk-seed1/index.html"})
            annotations = notes if kind == "sequence" else None
            out = tmp_path_factory.mktemp("pages") / kind
            known[kind] = write_pages(out, written(kind), SAE, names, decoder(), annotations).parent
        return known[kind]

    return write
