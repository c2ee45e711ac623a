"""The same text is the same documents, whatever bytes it lies in."""

import bz2
import codecs
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelib.config.datasets import Sequences, Text
from saelib.config.files import LocalFiles
from saelib.datasets import open_dataset
from saelib.datasets.decoding import CHUNK, byte_lines, read_text, text_lines, unified, unpacked
from saelib.errors import UserError

TEXT = "Ein Satz über 3 Zeilen,\nmit “Zeichen” aus drei Alphabeten: Ω ж 😀\nund einem Ende.\n"
ENCODINGS = {
    "plain": TEXT.encode(),
    "mark": codecs.BOM_UTF8 + TEXT.encode(),
    "utf-16-le": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16-be": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-32": TEXT.encode("utf-32"),
    "crlf": TEXT.replace("\n", "\r\n").encode(),
    "cr": TEXT.replace("\n", "\r").encode(),
    "gzip": gzip.compress(TEXT.encode()),
    "gzip twice": gzip.compress(TEXT[:9].encode()) + gzip.compress(TEXT[9:].encode()),
    "bzip2": bz2.compress(TEXT.encode("utf-8-sig")),
    "xz": lzma.compress(TEXT.encode()),
    "zstd": bytes(pa.compress(TEXT.encode("utf-16"), codec="zstd", asbytes=True)),
}


@pytest.mark.parametrize("form", ENCODINGS)
def test_every_form_is_the_same_text(tmp_path, form):
    path = tmp_path / "a.txt"
    path.write_bytes(ENCODINGS[form])
    assert read_text(path) == TEXT
    assert list(text_lines(path)) == TEXT.splitlines()
    with path.open("rb") as raw:
        lines = [line.decode() for line in byte_lines(unpacked(raw), "a")]
    assert lines == TEXT.split("\n")


@given(st.text(st.sampled_from("ab\r\né"), max_size=12), st.integers(0, 12))
def test_line_ends_at_the_border_of_two_reads(tmp_path_factory, text, before):
    whole = "x" * (CHUNK - before) + text
    path = tmp_path_factory.mktemp("borders") / "a.txt"
    path.write_bytes(whole.encode())
    wanted = whole.replace("\r\n", "\n").replace("\r", "\n")
    assert read_text(path) == wanted
    with path.open("rb") as raw:
        assert b"\n".join(byte_lines(unpacked(raw), "a")) == wanted.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * 70_000 + "é".encode("latin-1") + b"y", r"byte 70000 \(0xe9\) is not UTF-8"),
        (b"x" * (CHUNK - 1) + "é".encode()[:1] + b"y", rf"byte {CHUNK - 1} \(0xc3\) is not UTF-8"),
        (b"x\xc3", r"byte 1 \(0xc3\) is not UTF-8"),
        (codecs.BOM_UTF8 + b"abc\xff", r"byte 6 \(0xff\) is not UTF-8"),
        (codecs.BOM_UTF16_LE + b"a\x00\x00\xdcb\x00", r"byte 4 \(0x00\) is not UTF-16"),
        ("ab".encode("utf-16-le"), "byte 1 is 0, .*UTF-16 has to begin with a byte order mark"),
        (gzip.compress(TEXT.encode())[:-9], "cut short"),
        (bytes(pa.compress(TEXT.encode(), codec="zstd", asbytes=True))[:-5], "cut short"),
    ],
)
def test_what_is_no_text_is_said_with_its_place(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.txt: not readable as text.*{message}") as caught:
        read_text(path)
    assert "\n" not in str(caught.value)


def test_halves_of_characters_are_replaced_and_whole_ones_kept():
    assert unified("\ufeff\ud800a\r\nb\rc😀\ufeff") == "�a\nb\nc😀\ufeff"


DOCUMENTS = [f"Dokument {i} von Zoë:\nzwei Zeilen." for i in range(40)]


def examples(data) -> dict[str, list[str]]:
    return {split: [one.content for one in data.examples(split, 0, 0.3)] for split in ("train", "heldout")}


def text(folder: Path):
    return open_dataset(Text(kind="text", files=(LocalFiles(path=folder),)))


def test_a_document_in_several_forms_is_one_document(tmp_path):
    decomposed = {"ë": "e\u0308"}
    for i, one in enumerate(DOCUMENTS):
        forms = [
            one.encode(),
            codecs.BOM_UTF8 + one.encode() + b"\r\n",
            one.replace("\n", "\r\n").encode("utf-16"),
            one.translate(str.maketrans(decomposed)).replace("\n", "\r").encode(),
        ]
        for number, content in enumerate(forms):
            (tmp_path / f"{i}-{number}.txt").write_bytes(content)
    rows = [{"text": f"\ufeff{one}\r\n".replace("\n", "\r\n")} for one in DOCUMENTS]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in rows))
    data = text(tmp_path)
    found = examples(data)
    assert sorted(found["train"] + found["heldout"]) == sorted(DOCUMENTS)
    assert data.counts["documents"] == 200
    assert data.counts["repeated"] == 160


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.bz2", ".txt.xz", ".txt.zst", ".TXT.GZ"])
def test_compressed_text_files_are_read(tmp_path, suffix):
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(
        suffix[-4:].lstrip("Tt").lower(), lambda content: pa.compress(content, codec="zstd", asbytes=True)
    )
    for i, one in enumerate(DOCUMENTS):
        (tmp_path / f"{i}{suffix}").write_bytes(pack(one.encode()))
    found = examples(text(tmp_path))
    assert sorted(found["train"] + found["heldout"]) == sorted(DOCUMENTS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.zst"])
def test_json_with_a_mark(tmp_path, name, encoding):
    rows = [{"text": one} for one in DOCUMENTS]
    content = json.dumps(rows, indent=1) if name == "a.json" else "\n".join(map(json.dumps, rows))
    packed = pa.compress(content.encode(encoding), codec="zstd", asbytes=True)
    (tmp_path / name).write_bytes(packed if name.endswith(".zst") else content.encode(encoding))
    found = examples(text(tmp_path))
    assert sorted(found["train"] + found["heldout"]) == sorted(DOCUMENTS)


FASTA = b">sp|P1|A Caf\xe9 \xff\xfe\nMKV\nlw\n>caf\xe9\nMKW\n>caf\xc3\xa9s x\nMKY\n"
"""Headers in Latin-1, in no encoding and in UTF-8."""
LETTERS = {"sp|P1|A": "MKVLW", "café": "MKW", "cafés": "MKY"}


@pytest.mark.parametrize(
    "content",
    [
        FASTA,
        codecs.BOM_UTF8 + FASTA,
        FASTA.replace(b"\n", b"\r"),
        FASTA.replace(b"\n", b"\r\n"),
        FASTA.decode("latin-1").replace("Ã©", "é").encode("utf-16"),
        bz2.compress(FASTA),
        lzma.compress(FASTA),
        bytes(pa.compress(FASTA, codec="zstd", asbytes=True)),
    ],
    ids=["plain", "mark", "old Mac", "Windows", "utf-16", "bzip2", "xz", "zstd"],
)
def test_a_sequence_file_is_read_whatever_its_headers_and_line_ends(tmp_path, content):
    path = tmp_path / "a.fa"
    path.write_bytes(content)
    (tmp_path / "empty.fa").write_bytes(b"")
    data = open_dataset(Sequences(kind="sequences", files=(LocalFiles(path=tmp_path),), alphabet="protein"))
    found = {one.id: one.content for split in ("train", "heldout") for one in data.examples(split, 0, 0.5)}
    assert found == LETTERS
    assert dict(data.counts) == {"files": 1, "records": 3, "examples": 3, "lower": 1}


def test_a_letter_that_is_none_is_shown_as_the_file_has_it(tmp_path):
    (tmp_path / "a.fa").write_bytes(b">a\nMKV\n>b\nMK\xe9\n")
    with pytest.raises(UserError, match="record 'b': the byte 0xe9 is not a letter of a sequence"):
        open_dataset(Sequences(kind="sequences", files=(LocalFiles(path=tmp_path),), alphabet="protein"))
