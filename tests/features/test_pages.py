"""The files of the pages: complete, the same each time, harmless whatever the texts say, and small."""

import base64
import hashlib
import json
import re

import numpy as np
import polars as pl
import pytest

from saelib.errors import UserError
from saelib.evaluation.seen import read_seen, write_codes, write_latents, write_seen
from saelib.features.index import Names
from saelib.features.pages import write_pages
from saelib.features.scripts import CHUNK_BYTES, chunked, rounded, to_json
from tests.features.conftest import (
    EVIL,
    LATENTS,
    LINES,
    SAE,
    decoder,
    latents_table,
    random_codes,
    tables,
    texts,
    write_evaluation,
)

KINDS = ("text", "sequence", "image", "row")


def script(path):
    """The name and the content that a script hands over."""
    text = path.read_text(encoding="ascii")
    assert text.startswith("received(")
    assert text.endswith(");\n")
    return json.loads("[" + text.removeprefix("received(").removesuffix(");\n") + "]")


@pytest.mark.parametrize("kind", KINDS)
def test_every_script_holds_what_its_name_says(pages, kind):
    data = pages(kind) / "data"
    names = sorted(file.relative_to(data).with_suffix("").as_posix() for file in data.rglob("*.js"))
    assert [script(data / f"{name}.js")[0] for name in names] == names
    assert {"list", "latents/0", "latents/1", "examples/0"} <= set(names)
    latents = [one for number in range(2) for one in script(data / f"latents/{number}.js")[1]]
    assert len(latents) == LATENTS
    first = script(data / "list.js")[1]["first_of_chunk"]
    for latent in latents:
        for example, *_ in (*latent["top"], *latent["random"]):
            chunk = max(i for i, start in enumerate(first) if start <= example)
            assert str(example) in script(data / f"examples/{chunk}.js")[1]


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_can_end_a_script_or_begin_an_element(pages, kind):
    for file in (pages(kind) / "data").rglob("*.js"):
        assert "<" not in file.read_text(encoding="ascii")
    page = (pages(kind) / "index.html").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page.replace("\\u003cimg", "").split("<script>")[0]
    assert page.count("<script") == 2


def test_the_policy_names_the_script_and_no_network(pages):
    page = (pages("text") / "index.html").read_text()
    own = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].replace("&#39;", "'").startswith(f"default-src 'none'; script-src 'sha256-{digest}' ")
    assert "http" not in policy[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_evaluation_gives_the_same_files(pages, written, tmp_path, kind):
    out = write_pages(tmp_path / "again", written(kind), SAE, Names("again"), decoder()).parent
    kept = pages(kind)
    files = [file.relative_to(kept) for file in kept.rglob("*") if file.is_file() and file.name != "index.html"]
    assert len(files) >= 4
    for file in files:
        if kind != "sequence" or not file.match("examples/*"):  # those have annotations
            assert (out / file).read_bytes() == (kept / file).read_bytes(), file


def test_text_around_the_tokens_is_kept_and_the_rest_is_not(pages):
    records = {}
    for file in (pages("text") / "data" / "examples").iterdir():
        records |= script(file)[1]
    for number, record in records.items():
        text, spans = texts()[int(number)]
        low = record["offset"]
        assert record["text"] == text[low : low + len(record["text"])]
        assert record["length"] == len(text)
        end, steps = 0, iter(record["spans"])
        for token in range(record["first"], record["first"] + record["count"]):
            start = end + next(steps)
            end = start + next(steps)
            if spans[token][1] - spans[token][0] <= 500 and spans[token][1] > 0:
                assert (start + low, end + low) == spans[token]
    assert max(len(record["text"]) for record in records.values()) < 10_000  # of 300,000 letters


def test_without_a_decoder_there_is_neither_map_nor_neighbor(written, tmp_path):
    out = write_pages(tmp_path / "out", written("row"), SAE, Names("x")).parent
    assert 'id="map"' not in (out / "index.html").read_text()
    assert script(out / "data/list.js")[1]["places"] is None
    assert {len(one["near"]) for one in script(out / "data/latents/0.js")[1]} == {0}


def test_an_earlier_page_is_replaced_as_a_whole(written, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.js").touch()
    out = write_pages(tmp_path / "out", written("row"), SAE, Names("x")).parent
    assert not (out / "old.js").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder, codes: write_codes(folder, SAE, codes[:-1]), "codes of 'pca-seed0' have 49 tokens, tokens.p"),
        (lambda folder, codes: write_codes(folder, SAE, codes[:, 1:]), "have 69 latents, its latents.parquet has 70"),
        (lambda folder, codes: (folder / SAE / "codes.npz").write_bytes(b"PK"), "not a readable sparse matrix"),
        (lambda folder, codes: (folder / SAE / "codes.npz").unlink(), "no such file; the SAEs here are none"),
    ],
)
def test_files_that_do_not_fit_together_get_one_clear_error(tmp_path, change, message):
    seen = write_evaluation(tmp_path / "layer_3", "row")
    change(seen.folder, seen.codes(SAE))
    with pytest.raises(UserError, match=re.escape(message)):
        write_pages(tmp_path / "out", read_seen(seen.folder), SAE, Names("x"), decoder())
    assert not (tmp_path / "out").exists()


def test_a_decoder_of_another_sae_is_refused(written, tmp_path):
    with pytest.raises(UserError, match="have 70 latents, the SAE's decoder has 71"):
        write_pages(tmp_path / "out", written("row"), SAE, Names("x"), decoder(71))


def test_a_damaged_picture_is_named(tmp_path):
    examples, tokens = tables("image")
    examples = examples.with_columns(pl.lit(b"\x89PNG nothing").alias("image"))
    write_seen(tmp_path, examples, tokens)
    codes = random_codes(tokens.height)
    write_codes(tmp_path, SAE, codes)
    write_latents(tmp_path, SAE, latents_table(codes, None))
    with pytest.raises(UserError, match="example 0: its picture cannot be read as PNG"):
        write_pages(tmp_path / "out", read_seen(tmp_path), SAE, Names("x"))


def test_json_of_hostile_text_is_ascii_and_comes_back():
    text = to_json({EVIL: LINES})
    assert text.isascii()
    assert "<" not in text
    assert json.loads(text) == {EVIL: LINES}


def test_chunks_keep_the_order_and_the_size():
    records = [(number, {"text": "x" * (CHUNK_BYTES // 4)}) for number in range(10)]
    records.insert(5, (100, {"text": "x" * 3 * CHUNK_BYTES}))
    chunks = list(chunked(records))
    assert [number for chunk in chunks for number in chunk] == [number for number, _ in records]
    assert all(len(to_json(chunk)) < 1.1 * CHUNK_BYTES for chunk in chunks if 100 not in chunk)
    assert [list(chunk) for chunk in chunks if 100 in chunk] == [[100]]


def test_numbers_are_rounded_to_significant_digits():
    assert rounded([123456.0, 0.00012344, None, float("nan"), -2.0]) == [123500.0, 0.0001234, None, None, -2.0]
    assert np.isfinite([value for value in rounded([1e300]) if value is not None]).all()
