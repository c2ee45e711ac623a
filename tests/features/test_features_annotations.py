"""Annotations run along the examples that they belong to, by the labels of tokens."""

import re

import numpy as np
import polars as pl
import pytest

from saelib.config.evaluation import AnnotationLabels
from saelib.config.files import LocalFiles
from saelib.errors import UserError
from saelib.evaluation.labels import Labels
from saelib.evaluation.seen import read_seen, write_seen
from saelib.features.annotations import annotations_of, stretches

TOKENS = pl.DataFrame(
    {"example": [0] * 6 + [1] * 4, "start": [0, 2, 4, 6, 8, 10, 3, 2, 1, 0], "end": [2, 4, 6, 8, 10, 12, 4, 3, 2, 1]}
)
GENBANK = """\
LOCUS       made_up                   30 bp    DNA     linear   BCT 01-JAN-2000
DEFINITION  made up.
ACCESSION   X1
VERSION     X1.1
FEATURES             Location/Qualifiers
     CDS             4..12
     tRNA            join(14..15,20..22)
ORIGIN
        1 acgtacgtac ggttaaccgg ttaacgtgca
//
"""


def joined(labels: Labels) -> list[tuple[int, int, int, str]]:
    return stretches(labels, TOKENS).rows()


def test_neighboring_tokens_of_one_occurrence_are_joined():
    labels = Labels(10, ("a", "b"), np.array([1, 2, 4, 3]), np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1]))
    assert joined(labels) == [(0, 2, 6, "a"), (0, 8, 10, "a"), (0, 6, 8, "b")]


def test_tokens_of_two_examples_are_apart_and_those_read_backwards_are_joined():
    labels = Labels(10, ("a",), np.array([5, 6, 7, 8]), np.zeros(4, int), np.zeros(4, int))
    assert joined(labels) == [(0, 10, 12, "a"), (1, 1, 4, "a")]


def test_without_labels_there_are_none():
    labels = Labels(10, (), np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))
    assert joined(labels) == []


def test_a_genbank_file_annotates_its_sequence(tmp_path):
    sequence = "ACGTACGTACGGTTAACCGGTTAACGTGCA"
    examples = {
        "example": [0],
        "id": ["X1"],
        "kind": ["sequence"],
        "text": [sequence],
        "first_token": [0],
        "tokens": [30],
    }
    tokens = {"example": [0] * 30, "start": range(30), "end": range(1, 31), "massive": [False] * 30}
    write_seen(tmp_path, pl.DataFrame(examples | {"image": [None]}), pl.DataFrame(tokens))
    (tmp_path / "made_up.gb").write_text(GENBANK)
    labels = AnnotationLabels(kind="annotations", files=(LocalFiles(path=tmp_path / "made_up.gb"),))
    found = annotations_of(read_seen(tmp_path), labels, "model").sort("start")
    assert found.rows() == [(0, 3, 12, "CDS"), (0, 13, 15, "tRNA"), (0, 19, 22, "tRNA")]
    (tmp_path / "made_up.gb").write_text(GENBANK.replace("acgtacgtac", "ttttttttta"))
    with pytest.raises(UserError, match=re.escape("none of its 1 held-out examples is a sequence of the annotation")):
        annotations_of(read_seen(tmp_path), labels, "model")
