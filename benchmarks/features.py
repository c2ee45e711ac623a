"""Measures how long the pages of an SAE's latents take to write, and how large they are."""

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from benchmarks.concepts import random_codes
from benchmarks.timing import command_line, cpu_seconds, environment, environment_line, peak_memory, show
from saelib.evaluation.seen import read_seen, write_codes, write_latents, write_seen
from saelib.features.directions import layout, nearest
from saelib.features.index import Names
from saelib.features.pages import write_pages

PACKAGES = ("numpy", "numba", "polars", "scipy")
WORDS = ("the", "latent", " of", " a", "direction", " fires", ",", " sparse", " code", "\n", "auto", "encoder", " zero")


def main(argv: list[str]) -> None:
    parser = command_line("features", __doc__)
    parser.add_argument("--latents", type=int, default=8_192)
    parser.add_argument("--tokens", type=int, default=250_000)
    parser.add_argument("--k", type=int, default=64, help="latents that fire for a token")
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--images", type=int, default=1_000, help="pictures; their patches are the tokens")
    options = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    decoder = rng.standard_normal((options.latents, options.d_in), np.float32)
    few = decoder[:64]
    layout(few, nearest(few))  # compiles
    found: dict[str, object] = {}
    lines = [f"{options.latents:,} latents, k = {options.k}, d_in = {options.d_in}"]
    for kind in ("text", "sequence", "image"):
        with tempfile.TemporaryDirectory() as folder:
            one = measured(Path(folder), kind, rng, options, decoder)
        found[kind] = one
        lines.append(
            f"{kind:9}{one['tokens']:10,} tokens {one['seconds']:7.1f} s ({one['cpu']:.1f} s of CPU) "
            f"{one['bytes'] / 1e6:7.1f} MB on disk in {one['files']:,} files, "
            f"{one['opened'] / 1e6:.2f} MB to open, {one['peak'] / 1e6:,.0f} MB of memory"
        )
    show(found | {"environment": environment(*PACKAGES)}, [*lines, environment_line(*PACKAGES)], options.json)


def measured(
    folder: Path, kind: str, rng: np.random.Generator, options: argparse.Namespace, decoder: np.ndarray
) -> dict[str, int | float]:
    """Writes an evaluation and its pages; returns seconds, bytes and counts."""
    pages = folder / "pages"
    tokens = write_evaluation(folder / "layer", kind, rng, options)
    start, cpu = time.monotonic(), cpu_seconds()
    peak = peak_memory(lambda: write_pages(pages, read_seen(folder / "layer"), "sae", Names("sae"), decoder))
    seconds, cpu = time.monotonic() - start, cpu_seconds() - cpu
    sizes = [file.stat().st_size for file in pages.rglob("*") if file.is_file()]
    opened = sum((pages / name).stat().st_size for name in ("index.html", "data/list.js"))
    counts = {"bytes": sum(sizes), "files": len(sizes), "opened": opened, "peak": peak}
    return {"tokens": tokens, "seconds": seconds, "cpu": cpu} | counts


def write_evaluation(folder: Path, kind: str, rng: np.random.Generator, options: argparse.Namespace) -> int:
    """Writes a made-up evaluation with tokens, examples and codes of realistic sizes; returns the number of tokens."""
    per_example = {"text": 256, "sequence": 350, "image": 256}[kind]
    count = options.images if kind == "image" else options.tokens // per_example
    example = np.repeat(np.arange(count), per_example)
    number = np.tile(np.arange(per_example), count)
    text: list[str | None] = [None] * count
    image: list[bytes | None] = [None] * count
    spans = {"start": number, "end": number + 1}
    if kind == "image":
        image = [picture(rng) for _ in range(min(count, 50))] * -(-count // 50)
        x, y = number % 16 * 14, number // 16 * 14
        spans = {"x0": x, "y0": y, "x1": x + 14, "y1": y + 14}
    elif kind == "sequence":
        letters = rng.choice(np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", "S1"), (count, per_example))
        text = [row.tobytes().decode() for row in letters]
    else:
        words = rng.integers(0, len(WORDS), (count, per_example))
        lengths = np.array([len(word) for word in WORDS])[words]
        ends = np.cumsum(lengths, axis=1)
        text = ["".join(WORDS[word] for word in row) for row in words]
        spans = {"start": (ends - lengths).ravel(), "end": ends.ravel()}
    folder.mkdir()
    examples = {"example": range(count), "id": [f"example {i}" for i in range(count)], "kind": [kind] * count}
    examples |= {"text": pl.Series(text, dtype=pl.String), "image": pl.Series(image[:count], dtype=pl.Binary)}
    examples |= {"first_token": np.arange(count) * per_example, "tokens": [per_example] * count}
    write_seen(folder, pl.DataFrame(examples), pl.DataFrame({"example": example} | spans | {"massive": number == 0}))
    codes = random_codes(rng, len(example), options.latents, options.k)
    codes.sum_duplicates()
    matrix: Any = sparse.csc_array(codes)
    write_codes(folder, "sae", matrix)
    write_latents(folder, "sae", latents(matrix))
    return len(example)


def picture(rng: np.random.Generator) -> bytes:
    """Draws 224 x 224 pixels of smooth noise, which compresses about as well as a photograph does."""
    from PIL import Image

    file, coarse = io.BytesIO(), rng.integers(0, 255, (56, 56, 3), np.uint8)
    Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def latents(codes: Any) -> pl.DataFrame:
    count = codes.shape[1]
    density = np.diff(codes.indptr) / codes.shape[0]
    columns = {
        "latent": range(count),
        "density": density,
        "max_activation": codes.max(axis=0).toarray().ravel(),
        "state": np.where(density == 0, "dead", np.where(density > 0.1, "dense", "alive")),
        "concept": [f"concept {n % 100}" for n in range(count)],
        "concept_f1": np.linspace(0, 1, count),
        "twin_sae": ["other"] * count,
        "twin": range(count),
        "twin_cosine": np.linspace(0, 1, count),
    }
    return pl.DataFrame(columns)
