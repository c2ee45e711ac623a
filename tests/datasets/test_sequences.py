"""FASTA files as they come: wrapped, gzipped, with lower case, unknown letters, empty and repeated records."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from saelib.config.datasets import Sequences as SequencesConfig
from saelib.config.files import LocalFiles
from saelib.datasets import open_dataset
from saelib.datasets.sequences import read_fasta
from saelib.errors import UserError

ZIPPED = gzip.compress(b">a\nMKV\n>b\nMKL\n" * 1000, mtime=0)


def dataset(tmp_path: Path, text: str, name: str = "toy.fa", **options):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return open_dataset(
        SequencesConfig(kind="sequences", files=(LocalFiles(path=path),), **{"alphabet": "protein", **options})
    )


def contents(data) -> dict[str, str]:
    return {example.id: example.content for split in ("train", "heldout") for example in data.examples(split, 0, 0.5)}


@pytest.mark.parametrize("name", ["toy.fa", "toy.fa.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_records_are_joined_upper_cased_and_named_by_their_first_word(tmp_path, name, newline):
    text = newline.join([">sp|A|X some words", "MKV l", "", "mm*", ">B", "W"])
    assert contents(dataset(tmp_path, text, name)) == {"sp|A|X": "MKVLMM", "B": "W"}


def test_what_is_left_out_is_counted(tmp_path):
    data = dataset(tmp_path, ">a\nMKV\n>empty\n>x\nMXV\n>b\nWW\n>again\nMKV\n>stop\nM*V\n")
    assert contents(data) == {"a": "MKV", "b": "WW"}
    assert dict(data.counts) == {"records": 6, "empty": 1, "unknown": 2, "repeated": 1, "examples": 2}


def test_max_unknown_is_a_fraction_of_the_letters(tmp_path):
    text = ">half\nMX\n>third\nMKX\n>none\nMK\n"
    assert set(contents(dataset(tmp_path, text, max_unknown=1 / 3))) == {"third", "none"}
    assert contents(dataset(tmp_path, text, max_unknown=0.5))["half"] == "MX"


def test_windows_tile_a_record_and_short_rests_are_dropped(tmp_path):
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 1049))
    data = dataset(tmp_path, f">long\n{letters}\n>short\nACGTAC\n", alphabet="dna", window=100)
    found = contents(data)
    assert found.pop("short:0-6") == "ACGTAC"
    assert found == {f"long:{i}-{i + 100}": letters[i : i + 100] for i in range(0, 1000, 100)}


def test_a_chromosome_is_split_into_segments_and_a_short_record_is_not(tmp_path):
    rng = np.random.default_rng(1)
    chromosome, plasmid = ("".join(rng.choice(list("acgt"), size)) for size in (400_000, 30_000))
    data = dataset(tmp_path, f">chr\n{chromosome}\n>plasmid\n{plasmid}\n", "toy.fna.gz", alphabet="dna", window=1000)
    groups = {}
    for split in ("train", "heldout"):
        for example in data.examples(split, 5, 0.3):
            record, span = example.id.split(":")
            groups.setdefault((record, int(span.split("-")[0]) // 50_000 if record == "chr" else 0), set()).add(split)
    assert len(groups) == 9
    assert all(len(splits) == 1 for splits in groups.values())
    assert set.union(*(splits for (record, _), splits in groups.items() if record == "chr")) == {"train", "heldout"}


def test_the_order_is_the_seeds(tmp_path):
    text = "".join(f">r{i}\n{'MKV' * (i + 1)}\n" for i in range(30))
    data = dataset(tmp_path, text)
    first = [example.id for example in data.examples("train", 0, 0.3)]
    assert [example.id for example in dataset(tmp_path, text).examples("train", 0, 0.3)] == first
    assert [example.id for example in data.examples("train", 1, 0.3)] != first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MKV\n", r"line 1.*header"),
        (b"\x89PNG\xff\xfe", "not a readable FASTA"),
        (ZIPPED[:-20], "not a readable FASTA"),
        (ZIPPED[:20] + b"garbage" + ZIPPED[27:], "not a readable FASTA"),
    ],
    ids=["no header", "not text", "cut short", "damaged"],
)
def test_what_is_not_fasta_is_refused(tmp_path, content, message):
    path = tmp_path / ("cut.fa.gz" if content[:2] == b"\x1f\x8b" else "bad.fa")
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_fasta(path))


def test_the_wrong_alphabet_says_what_was_left_out(tmp_path):
    with pytest.raises(UserError, match=r"no example is left of 2 records.*2 with too many letters outside dna 'ACGT'"):
        dataset(tmp_path, ">a\nMKV\n>b\nMKL\n", alphabet="dna")
