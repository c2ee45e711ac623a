"""Readers of annotations: real formats in small files, their concepts, and refusals."""

import gzip
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from Bio import SeqIO

from saelib import UserError, evaluation

SWISS = """\
ID   MADE_HUMAN              Reviewed;          40 AA.
AC   P00001;
DT   01-JAN-2020, integrated into UniProtKB/Swiss-Prot.
DT   01-JAN-2020, sequence version 1.
DT   01-JAN-2020, entry version 1.
DE   RecName: Full=Made up;
OS   Homo sapiens (Human).
OC   Eukaryota.
OX   NCBI_TaxID=9606;
PE   1: Evidence at protein level;
FT   SIGNAL          1..5
FT                   /evidence="ECO:0000255"
FT   CHAIN           6..40
FT                   /note="Made up"
FT   DOMAIN          8..12
FT                   /note="SH3 1"
FT   DOMAIN          15..19
FT                   /note="SH3 2; atypical"
FT   BINDING         20
FT                   /ligand="ATP"
FT                   /ligand_id="ChEBI:CHEBI:30616"
FT   DISULFID        22..30
FT                   /evidence="ECO:0000269"
FT   HELIX           ?..33
FT   HELIX           31..33
FT   MOD_RES         34
FT                   /note="Phosphoserine; by PKA"
FT   VARIANT         35
FT                   /note="A -> V"
SQ   SEQUENCE   40 AA;  4000 MW;  0000000000000000 CRC64;
     MKTAYIAKQR QISFVKSHFS RQLEERLGLI EVQAPILSRV
//
"""

GENBANK = """\
LOCUS       MADE                      30 bp    DNA     linear   SYN 01-JAN-2020
DEFINITION  Made up.
ACCESSION   MADE
VERSION     MADE.1
FEATURES             Location/Qualifiers
     source          1..30
                     /organism="synthetic"
     CDS             complement(join(4..6,10..12))
                     /gene="abc"
     regulatory      1..3
                     /regulatory_class="promoter"
     CDS             20..>24
                     /gene="def"
ORIGIN
        1 acgtacgtac gtacgtacgt acgtacgtac
//
"""


def positions(records: list[evaluation.Record]) -> dict[str, list[list[int]]]:
    """The positions of each concept's occurrences in the first record, counted from 1 as in the files."""
    found: dict[str, list[list[int]]] = {}
    for concept, where in records[0].annotations:
        found.setdefault(concept, []).append((where + 1).tolist())
    return found


def test_swiss_prot(tmp_path: Path) -> None:
    (tmp_path / "made.dat").write_text(SWISS)
    records = evaluation.read_annotations(tmp_path / "made.dat")
    assert (records[0].name, records[0].sequence) == ("MADE_HUMAN", "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRV")
    assert positions(records) == {
        "Signal peptide": [[1, 2, 3, 4, 5]],
        "Domain: SH3": [[8, 9, 10, 11, 12], [15, 16, 17, 18, 19]],
        "Binding site": [[20]],
        "Binding site: ATP": [[20]],
        "Disulfide bond": [[22], [30]],
        "Helix": [[31, 32, 33]],
        "Modified residue: Phosphoserine": [[34]],
    }
    with gzip.open(tmp_path / "made.txt.gz", "wt") as file:
        file.write(SWISS)
    assert positions(evaluation.read_annotations(tmp_path / "made.txt.gz")) == positions(records)


def test_notes_of_older_releases(tmp_path: Path) -> None:
    lines = SWISS.splitlines()
    start = lines.index(next(line for line in lines if line.startswith("FT")))
    kept = [line for line in lines if not line.startswith("FT")]
    kept[start:start] = [
        "FT   SIGNAL        1      5       Potential.",
        "FT   TRANSMEM      6     12       Helical; Name=1; (By similarity).",
        "FT   MOD_RES      14     14       Phosphoserine (Probable).",
    ]
    (tmp_path / "old.dat").write_text("\n".join(kept) + "\n")
    assert positions(evaluation.read_annotations(tmp_path / "old.dat")) == {
        "Signal peptide": [[1, 2, 3, 4, 5]],
        "Transmembrane": [list(range(6, 13))],
        "Transmembrane: Helical": [list(range(6, 13))],
        "Modified residue: Phosphoserine": [[14]],
    }


def test_genbank_and_embl(tmp_path: Path) -> None:
    (tmp_path / "made.gb").write_text(GENBANK)
    expected = {
        "CDS": [[4, 5, 6, 10, 11, 12], [20, 21, 22, 23, 24]],
        "regulatory": [[1, 2, 3]],
        "regulatory: promoter": [[1, 2, 3]],
    }
    assert positions(evaluation.read_annotations(tmp_path / "made.gb")) == expected
    record = SeqIO.read(tmp_path / "made.gb", "genbank")
    for name in ("made.embl", "made.dat"):  # EMBL's own files end in .dat, as those of Swiss-Prot do
        SeqIO.write(record, tmp_path / name, "embl")
        assert positions(evaluation.read_annotations(tmp_path / name)) == expected


def test_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "made.dat").write_text(SWISS[: SWISS.index("SQ")])
    (tmp_path / "empty.gb").write_text("nothing\n")
    (tmp_path / "bytes.gb.gz").write_bytes(b"\x00\x01")
    (tmp_path / "bare.gb").write_text(GENBANK[: GENBANK.index("        1 acgt")] + "//\n")
    for name, message in {
        "made.dat": r"made\.dat: is not a swiss file, or is damaged",
        "empty.gb": r"empty\.gb: holds no record of format 'genbank'",
        "bytes.gb.gz": r"bytes\.gb\.gz: is not a genbank file, or is damaged",
        "bare.gb": r"bare\.gb: record 'MADE\.1' holds no sequence",
        "nowhere.gb": r"nowhere\.gb: no such file",
    }.items():
        with pytest.raises(UserError, match=message):
            evaluation.read_annotations(tmp_path / name)


def test_an_unknown_format_and_a_missing_package_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"made\.fasta: format unknown; say kind='swiss', 'genbank' or 'embl'"):
        evaluation.read_annotations(tmp_path / "made.fasta")
    monkeypatch.setitem(sys.modules, "Bio", None)
    with pytest.raises(UserError, match=r"needs Bio, .* pip install 'saelib\[annotations\]'"):
        evaluation.read_annotations(tmp_path / "made.gb")


def records() -> list[evaluation.Record]:
    helix = evaluation.Annotation("Helix", np.arange(2, 6))
    other = evaluation.Annotation("Helix", np.arange(8, 10))
    turn = evaluation.Annotation("Turn", np.array([1]))
    return [evaluation.Record("a", "ACDEFGHIKL", (helix, other)), evaluation.Record("b", "ACDE", (turn, helix))]


def test_residues_become_tokens_record_after_record() -> None:
    labels = evaluation.label_residues(records())
    assert labels.tokens == 14
    assert labels.table() == {"Helix": 3, "Turn": 1}
    by_domain = [labels.token[labels.domain == domain].tolist() for domain in range(4)]
    assert by_domain == [[2, 3, 4, 5], [8, 9], [11], [12, 13]]


def test_residues_that_the_model_does_not_read_have_no_labels() -> None:
    labels = evaluation.label_residues(records(), max_length=4)
    assert (labels.tokens, labels.token.tolist()) == (8, [2, 3, 5, 6, 7])
    assert labels.table() == {"Helix": 2, "Turn": 1}


def test_tokens_of_several_residues_have_the_labels_of_each() -> None:
    whole = [(0, 3), (3, 6), (7, 10)], [(0, 1), (1, 4)]
    labels = evaluation.label_residues(records(), spans=whole)
    assert labels.tokens == 5
    by_domain = [labels.token[labels.domain == domain].tolist() for domain in range(4)]
    assert by_domain == [[0, 1], [2], [4], [4]]
    single = [[(i, i + 1) for i in range(len(record.sequence))] for record in records()]
    expected = evaluation.label_residues(records())
    found = evaluation.label_residues(records(), spans=single)
    np.testing.assert_array_equal(found.token, expected.token)
    np.testing.assert_array_equal(found.domain, expected.domain)


def test_spans_that_overlap_or_are_missing_are_refused() -> None:
    with pytest.raises(UserError, match="spans of record 'a': should be"):
        evaluation.label_residues(records(), spans=[[(0, 3), (2, 4)], []])
    with pytest.raises(UserError, match="spans: got 1 for 2 records"):
        evaluation.label_residues(records(), spans=[[(0, 3)]])
    assert evaluation.label_residues([]).tokens == 0


def test_tables_of_labels(tmp_path: Path) -> None:
    table = pl.DataFrame({"kind": ["T", "B", None, "T"], "dead": [True, False, True, None], "batch": [1, 1, 2, 2]})
    table.write_csv(tmp_path / "cells.csv")
    table.write_csv(tmp_path / "cells.tsv", separator="\t")
    table.write_parquet(tmp_path / "cells.parquet")
    for name in ("cells.csv", "cells.tsv", "cells.parquet"):
        labels = evaluation.read_labels(tmp_path / name)
        assert labels.tokens == 4
        assert labels.table() == {"kind: B": 1, "kind: T": 2, "dead": 2, "batch: 1": 2, "batch: 2": 2}
    assert evaluation.read_labels(tmp_path / "cells.csv", ["dead"]).token.tolist() == [0, 2]


def test_tables_that_hold_no_labels_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"size": [0.5, 1.5]}).write_parquet(tmp_path / "sizes.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    for name, columns, message in (
        ("sizes.parquet", None, "column 'size' holds Float64; labels are texts, whole numbers or truths"),
        ("sizes.parquet", ["kind"], "has no column 'kind'; its columns are size"),
        ("broken.parquet", None, "cannot be read as a table"),
        ("cells.xls", None, "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            evaluation.read_labels(tmp_path / name, columns)
