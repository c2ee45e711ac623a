"""FASTA files as they come: wrapped, gzipped, with lower case, unknown letters, empty and repeated records."""

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from saelib.config.datasets import Sequences as SequencesConfig
from saelib.config.files import LocalFiles
from saelib.datasets import open_dataset
from saelib.datasets.sequence_files import read_records
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


def test_records_and_windows_below_min_length_are_left_out_and_counted(tmp_path):
    fasta = f">long\n{'ACGT' * 40}\n>short\n{'TTGCA' * 12}\n"  # 160 letters: windows of 100 and 60; and 60 letters
    data = dataset(tmp_path, fasta, alphabet="dna", window=100, min_length=61)
    (piece,) = data._pieces
    assert (piece.start, piece.stop) == (0, 100)
    assert data.counts["short"] == 2
    assert len(dataset(tmp_path, fasta, alphabet="dna", window=100, min_length=60)._pieces) == 3
    with pytest.raises(
        UserError, match=r"no example is left of 2 records.* 2 too short\).*lower min_length \(now 161\)"
    ):
        dataset(tmp_path, fasta, alphabet="dna", min_length=161)


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
        (b"\x89PNG\xff\xfe", r"line 1: FASTA starts with a header.*found '\\x89PNG\\xff\\xfe'"),
        (ZIPPED[:-20], "not a readable FASTA"),
        (ZIPPED[:20] + b"garbage" + ZIPPED[27:], "not a readable FASTA"),
    ],
    ids=["no header", "not text", "cut short", "damaged"],
)
def test_what_is_not_fasta_is_refused(tmp_path, content, message):
    path = tmp_path / ("cut.fa.gz" if content[:2] == b"\x1f\x8b" else "bad.fa")
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_records(path))


def test_the_wrong_alphabet_says_what_was_left_out(tmp_path):
    with pytest.raises(UserError, match=r"no example is left of 2 records.*2 with too many letters outside dna 'ACGT'"):
        dataset(tmp_path, ">a\nMKV\n>b\nMKL\n", alphabet="dna")


SWISS_PROT = """\
ID   001R_FRG3G              Reviewed;          12 AA.
AC   Q6GZX4; Q00001;
AC   Q00002;
DT   28-JUN-2011, integrated into UniProtKB/Swiss-Prot.
DE   RecName: Full=Putative transcription factor 001R;
OS   Frog virus 3 (isolate Goorha) (FV-3).
FT   CHAIN           1..12
FT                   /note="Putative transcription factor 001R"
SQ   SEQUENCE   12 AA;  1353 MW;  B4840739BF7D4121 CRC64;
     MAFSAEDVLK EY
//
ID   002L_FRG3G              Reviewed;          62 AA.
AC   Q6GZX3;
SQ   SEQUENCE   62 AA;  6700 MW;  C05E1D1BB4D5C1F4 CRC64;
     MSIIGATRLQ NDKSDTYSAG PCYAGGCSAF TPRGTCGKDW DLGEQTCASG FCTSQPLCAR
     IK
//
"""
EMBL = """\
ID   X56734; SV 1; linear; mRNA; STD; PLN; 72 BP.
XX
AC   X56734; S46826;
XX
DE   Trifolium repens mRNA for non-cyanogenic beta-glucosidase
XX
SQ   Sequence 72 BP; 25 A; 12 C; 13 G; 22 T; 0 other;
     aaacaaacca aatatggatt ttattgtagc catatttgct ctgtttgtta ttagctcatt        60
     cacaattact tc                                                            72
//
ID   X2; SV 1; linear; genomic DNA; STD; PLN; 8 BP.
XX
SQ   Sequence 8 BP; 2 A; 2 C; 2 G; 2 T; 0 other;
     acgtacgt                                                                  8
//
"""


@pytest.mark.parametrize("name", ["a.dat", "a.txt.gz"])
def test_flat_files_are_told_by_their_content(tmp_path, name):
    assert contents(dataset(tmp_path, SWISS_PROT, name)) == {
        "Q6GZX4": "MAFSAEDVLKEY",
        "Q6GZX3": "MSIIGATRLQNDKSDTYSAGPCYAGGCSAFTPRGTCGKDWDLGEQTCASGFCTSQPLCARIK",
    }
    data = dataset(tmp_path, EMBL, name, alphabet="dna")
    assert contents(data) == {
        "X56734": "AAACAAACCAAATATGGATTTTATTGTAGCCATATTTGCTCTGTTTGTTATTAGCTCATTCACAATTACTTC",
        "X2": "ACGTACGT",
    }
    assert "lower" not in data.counts  # the format's own


def test_gzip_is_told_by_content_too(tmp_path):
    path = tmp_path / "download"  # as an address without a name gives it
    path.write_bytes(ZIPPED)
    assert len(list(read_records(path))) == 2000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SWISS_PROT[: SWISS_PROT.index("     IK")], "cut short: its last record, 002L_FRG3G"),
        (SWISS_PROT.replace("     IK\n", ""), "line 16: 002L_FRG3G has 60 letters, its SQ line says 62"),
        (SWISS_PROT.replace("//\n", "", 1), "line 11: a new record starts, but 001R_FRG3G has not ended"),
    ],
    ids=["cut short", "a line lost", "an end lost"],
)
def test_a_damaged_flat_file_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.dat"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        list(read_records(path))


def test_forms_of_one_protein_are_one_group(tmp_path):
    text = ">sp|P1|A_X\nMKV\n>sp|P1-2|A_X isoform\nMKL\n>tr|Q2|B_X\nMKW\n"
    text += ">UniRef50_Q2 peptidase n=3 Tax=x TaxID=1 RepID=Q2_X\nMKY\n>ENA|X1|X1.1 y\nMKC\n"
    data = dataset(tmp_path, text)
    groups = {one.id: one.group for split in ("train", "heldout") for one in data.examples(split, 0, 0.5)}
    assert groups == {
        "sp|P1|A_X": "P1",
        "sp|P1-2|A_X": "P1",
        "tr|Q2|B_X": "Q2",
        "UniRef50_Q2": "UniRef50_Q2",
        "ENA|X1|X1.1": "X1",
    }


def test_lower_case_gaps_and_repeated_ids_are_counted(tmp_path, caplog):
    with caplog.at_level("INFO"):
        data = dataset(tmp_path, ">a\nmkV\n>b\n-MK.L-\n>a\nMKW*\n>a\nMKY\n>c\nMBV\n", max_unknown=0.4)
    assert contents(data) == {"a": "MKV", "b": "MKL", "a#2": "MKW", "a#3": "MKY", "c": "MBV"}
    assert dict(data.counts) == {"records": 5, "same id": 2, "lower": 1, "gaps": 1, "examples": 5, "partly unknown": 1}
    assert "5 records read, 2 with the id of an earlier one, 1 with lower-case letters" in caplog.text


@pytest.mark.parametrize("letter", ["3", "é", "@"])
def test_what_is_no_letter_is_refused(tmp_path, letter):
    with pytest.raises(UserError, match=r"toy\.fa: record 'b': .* is not a letter of a sequence"):
        dataset(tmp_path, f">a\nMKV\n>b\nMK{letter}V\n")


def write_parts(folder: Path, parts: list[range]) -> list[LocalFiles]:
    """Writes files in which record `r{i}` is a protein that spells the number i."""
    files = []
    for number, part in enumerate(parts):
        path = folder / f"part{number}-{part.start}.fa"
        path.write_text("".join(f">r{i}\n{spell(i)}\n" for i in part))
        files.append(LocalFiles(path=path))
    return files


def spell(number: int) -> str:
    return "MK" + "".join("ACDEFGHIKL"[int(digit)] for digit in str(number))


def sampled(files, sample, seed=0, **options):
    config = SequencesConfig(kind="sequences", files=files, alphabet="protein", sample=sample, **options)
    data = open_dataset(config)
    return [[(one.id, one.content) for one in data.examples(split, seed, 0.3)] for split in ("train", "heldout")], data


def test_a_sample_does_not_depend_on_the_order_of_files_or_records(tmp_path):
    forward, data = sampled(write_parts(tmp_path, [range(500), range(500, 1000)]), 100)
    backward, _ = sampled(write_parts(tmp_path, [range(999, 300, -1), range(300, -1, -1)]), 100)
    assert forward == backward
    assert len(forward[0]) + len(forward[1]) == 100
    assert len(forward[1]) == 30
    assert data.counts == {"records": 1000, "examples": 100, "not drawn": 900}
    other, _ = sampled(write_parts(tmp_path, [range(1000)]), 100, seed=1)
    assert len({name for name, _ in (*forward[0], *forward[1])} & {name for name, _ in (*other[0], *other[1])}) < 30


def test_every_record_is_drawn_equally_often(tmp_path):
    files = write_parts(tmp_path, [range(20)])
    drawn = np.zeros(20)
    for seed in range(300):
        for part in sampled(files, 5, seed)[0]:
            drawn[[int(name[1:]) for name, _ in part]] += 1
    expected = 300 * 5 / 20
    chi_squared = ((drawn - expected) ** 2 / expected).sum() / (1 - 5 / 20)
    assert chi_squared < scipy.stats.chi2.ppf(0.999, df=19)
    assert chi_squared > scipy.stats.chi2.ppf(0.001, df=19)


def test_a_sample_is_of_records_that_can_be_used(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text("".join(f">r{i}\n{spell(i) if i % 2 else 'MXX'}\n>e{i}\n\n" for i in range(100)))
    (train, heldout), data = sampled((LocalFiles(path=path),), 40)
    assert len(train) + len(heldout) == 40
    assert data.counts == {"records": 200, "empty": 100, "unknown": 50, "not drawn": 10, "examples": 40}


def test_a_sample_holds_no_more_than_it_keeps(tmp_path):
    path = tmp_path / "large.fa.gz"
    letters = "ACDEFGHIKLMNPQRSTVWY" * 50
    with gzip.open(path, "wt", compresslevel=1) as stream:
        for i in range(10_000):
            stream.write(f">r{i}\n{letters}{spell(i)}\n")
    tracemalloc.start()
    sampled((LocalFiles(path=path),), 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # of 10 MB


def test_windows_do_not_copy_a_chromosome(tmp_path):
    path = tmp_path / "chromosome.fa"
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", dtype=np.uint8), 5_000_000).tobytes()
    path.write_bytes(b">chr\n" + b"\n".join(letters[i : i + 60] for i in range(0, len(letters), 60)))
    tracemalloc.start()
    config = SequencesConfig(kind="sequences", files=(LocalFiles(path=path),), alphabet="dna", window=8192)
    data = open_dataset(config)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1.2 * len(letters)
    assert peak < 3.5 * len(letters)  # while the record is read
    for example in data.examples("heldout", 0, 0.1):
        start, stop = map(int, example.id.split(":")[1].split("-"))
        assert example.content.encode() == letters[start:stop]


def test_feature_tables_are_counted_and_said_to_be_left_out(tmp_path, caplog):
    with caplog.at_level("INFO"):
        data = dataset(tmp_path, SWISS_PROT.replace("SQ   SEQ", "FT   DOMAIN          3..5\nSQ   SEQ", 1), "a.dat")
    assert (data.counts["annotated"], data.counts["features"]) == (1, 2)
    assert "1 with a feature table, which the model does not see (evaluation.labels can read it)" in caplog.text
    assert "2 entries in these tables" in caplog.text
    assert "annotated" not in dataset(tmp_path, EMBL, alphabet="dna").counts


def test_files_without_a_record_are_counted_and_none_at_all_is_said(tmp_path):
    (tmp_path / "a.fa").write_text(">a\nMKV\n>b\nMKL\n")
    (tmp_path / "b.fa").write_bytes(b"")
    (tmp_path / "c.fa").write_bytes(b"\xef\xbb\xbf\r\n")
    config = SequencesConfig(kind="sequences", files=(LocalFiles(path=tmp_path),), alphabet="protein")
    assert open_dataset(config).counts["files"] == 2
    (tmp_path / "a.fa").write_bytes(b"")
    with pytest.raises(UserError, match=r"sequences \(a\.fa, b\.fa, c\.fa\): is empty: no record in its 3 file"):
        open_dataset(config)


def test_the_same_letters_in_another_spelling_are_one_example(tmp_path):
    data = dataset(tmp_path, ">a\nMKV\n>b\nmkv\n>c\nM-K.V*\n>d\nMKW\n")
    assert contents(data) == {"a": "MKV", "d": "MKW"}
    assert data.counts["repeated"] == 2
