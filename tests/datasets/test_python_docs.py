"""Passages of documents: whole lines, about the length asked for, no text in two documents."""

import sys

import pytest

from saelib.config.datasets import PythonDocs
from saelib.datasets import open_dataset
from saelib.datasets.python_docs import TopicPassages
from saelib.errors import UserError


def lines(word: str, count: int) -> str:
    return "\n".join(f"line {i} of the document about {word}" for i in range(count)) + "\n"


def all_examples(dataset):
    return [example for split in ("train", "heldout") for example in dataset.examples(split, 0, 0.3)]


def test_passages_are_the_whole_text_cut_between_lines():
    documents = {"cats": lines("cats", 40), "dogs": lines("dogs", 7), "eels": "one line"}
    examples = all_examples(TopicPassages(documents, characters=300))
    for title, text in documents.items():
        passages = [example for example in examples if example.group == title]
        passages.sort(key=lambda example: int(example.id.split(":")[1].split("-")[0]))
        assert "\n".join(passage.content for passage in passages) == text.strip()
        if len(text) > 600:
            assert all(200 < len(passage.content) < 400 for passage in passages)
    assert len({example.id for example in examples}) == len(examples)


def test_a_document_that_repeats_a_longer_one_is_left_out():
    documents = {"part": lines("cats", 10), "whole": lines("cats", 30), "other": lines("dogs", 5)}
    assert {example.group for example in all_examples(TopicPassages(documents, 100))} == {"whole", "other"}


def test_pythons_own_topics():
    dataset = open_dataset(PythonDocs(kind="python_docs", characters=800))
    train = list(dataset.examples("train", 3, 0.3))
    assert [example.id for example in dataset.examples("train", 3, 0.3)] == [example.id for example in train]
    heldout = list(dataset.examples("heldout", 3, 0.3))
    assert sum(len(example.content) for example in train + heldout) > 200_000
    assert "for" not in {example.group for example in train + heldout}  # a section of 'compound'
    seen = {line for example in train for line in example.content.splitlines() if len(line) > 40}
    again = [line for example in heldout for line in example.content.splitlines() if len(line) > 40]
    assert sum(line in seen for line in again) < 0.05 * len(again)


def test_a_python_without_its_documentation_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"pydoc_data\.topics"):
        open_dataset(PythonDocs(kind="python_docs"))
