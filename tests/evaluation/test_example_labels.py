"""Annotations, folders and tables become labels of the right tokens, and halves share no group."""

import numpy as np
import polars as pl
import pytest

from saelib.config.evaluation import FolderLabels, TableLabels
from saelib.config.files import LocalFiles
from saelib.errors import UserError
from saelib.evaluation.annotations import Annotation, Record
from saelib.evaluation.example_labels import _of_annotations, label_tokens, split_tokens, take
from saelib.evaluation.labels import Labels

RECORDS = [
    Record("a", "ACDEFGHIKL", (Annotation("Helix", np.arange(2, 5)), Annotation("Site", np.array([7])))),
    Record("b", "MKVLA", (Annotation("Helix", np.array([0])),)),
]


def tables(texts: list[str], spans: list[list[tuple[int, int]]], ids: list[str] | None = None):
    counts = [len(own) for own in spans]
    starts = np.cumsum([0, *counts[:-1]])
    examples = pl.DataFrame({"id": ids or texts, "text": texts, "first_token": starts, "tokens": counts})
    flat = [span for own in spans for span in own]
    tokens = pl.DataFrame(
        {
            "example": np.repeat(np.arange(len(counts)), counts),
            "start": [start for start, _ in flat],
            "end": [end for _, end in flat],
        }
    )
    return examples, tokens


def letters(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(text))]


def test_residues_get_the_annotations_of_their_record():
    texts = ["MKVLA", "ACDEFGHIKL"]
    labels = _of_annotations(RECORDS, *tables(texts, [letters(text) for text in texts]), "m")
    found = {
        (labels.concepts[concept], int(token)) for concept, token in zip(labels.concept, labels.token, strict=True)
    }
    assert found == {("Helix", 0), ("Helix", 7), ("Helix", 8), ("Helix", 9), ("Site", 12)}
    assert labels.table() == {"Helix": 2, "Site": 1}  # domains


def test_tokens_of_several_letters_in_any_order_are_covered():
    """A backwards model, special tokens with empty spans, and a token of three letters."""
    spans = [[(10, 10), (7, 10), (4, 7), (0, 4), (0, 0)]]
    labels = _of_annotations(RECORDS, *tables(["ACDEFGHIKL"], spans), "m")
    found = {
        (labels.concepts[concept], int(token)) for concept, token in zip(labels.concept, labels.token, strict=True)
    }
    assert found == {("Helix", 3), ("Helix", 2), ("Site", 1)}


def test_a_window_finds_its_place_in_the_record():
    labels = _of_annotations(RECORDS, *tables(["EFGHI"], [letters("EFGHI")], ["a:3-8"]), "m")
    assert labels.token[labels.concept == labels.concepts.index("Helix")].tolist() == [0, 1]
    assert labels.token[labels.concept == labels.concepts.index("Site")].tolist() == [4]


def test_examples_without_a_record_are_left_out_and_none_at_all_is_an_error():
    labels = _of_annotations(RECORDS, *tables(["WWW", "MKVLA"], [letters("WWW"), letters("MKVLA")]), "m")
    assert labels.token.tolist() == [3]
    with pytest.raises(UserError, match="none of its 1 held-out examples is a sequence"):
        _of_annotations(RECORDS, *tables(["WWW"], [letters("WWW")]), "m")


def test_the_folder_of_an_image_is_its_class():
    examples, tokens = tables(["", "", ""], [letters("ab"), letters("a"), letters("a")], ["cat/1.png#0", "dog/1.png#0", "cat/2.png#1"])  # fmt: skip  # noqa: E501
    labels = label_tokens(FolderLabels(kind="folders"), examples, tokens, "m")
    assert labels.concepts == ("cat", "dog")
    assert labels.matrix().toarray().tolist() == [[True, False], [True, False], [False, True], [True, False]]
    assert labels.table() == {"cat": 2, "dog": 1}
    one_folder = examples.with_columns(id=pl.lit("astronaut.png#1"))
    with pytest.raises(UserError, match="m: its 3 held-out images are all from one folder"):
        label_tokens(FolderLabels(kind="folders"), one_folder, tokens, "m")


def test_a_table_labels_rows_by_their_number(tmp_path):
    (tmp_path / "cells.csv").write_text("kind\n" + "\n".join("abcd"))
    config = TableLabels(kind="table", file=LocalFiles(path=tmp_path / "cells.csv"))
    examples, tokens = tables(["", ""], [[(2, 3)], [(3, 4)]])
    labels = label_tokens(config, examples, tokens, "m")
    assert [labels.concepts[concept] for concept in labels.concept] == ["kind: c", "kind: d"]
    with pytest.raises(UserError, match=r"has 4 rows, but m has activations of row 4"):
        label_tokens(config, *tables([""], [[(4, 5)]]), "m")


def test_tokens_without_spans_cannot_be_labeled(tmp_path):
    config = TableLabels(kind="table", file=LocalFiles(path=tmp_path))
    examples, tokens = tables(["a"], [letters("a")])
    with pytest.raises(UserError, match="m: its tokens cannot be traced back"):
        label_tokens(config, examples, tokens.with_columns(start=pl.lit(None)), "m")


def test_halves_share_no_group_and_have_about_as_many_tokens():
    rng = np.random.default_rng(0)
    groups = [f"g{number}" for number in rng.integers(0, 40, 200)]
    counts = rng.integers(1, 30, 200).tolist()
    halves = split_tokens(groups, counts, "text")
    of_token = np.repeat(groups, counts)
    assert set(of_token[halves.validation]).isdisjoint(of_token[halves.test])
    assert np.sort(np.concatenate(halves)).tolist() == list(range(sum(counts)))
    assert len(halves.test) == pytest.approx(sum(counts) / 2, rel=0.15)


def test_rows_are_split_in_the_middle():
    halves = split_tokens(["a"] * 5, [2, 2, 2, 2, 1], "row")
    assert (halves.validation.tolist(), halves.test.tolist()) == ([0, 1, 2, 3], [4, 5, 6, 7, 8])


def test_taking_tokens_keeps_their_labels_and_domains():
    labels = Labels(6, ["x"], token=[0, 1, 4, 5], concept=[0] * 4, domain=[0, 0, 1, 2])
    taken = take(labels, np.array([1, 4, 5]))
    assert (taken.tokens, taken.token.tolist(), taken.domain.tolist()) == (3, [0, 1, 2], [0, 1, 2])
