"""One text, or few of them: both splits have some, and no passage is in both."""

import re

import numpy as np
import pytest

from saelib.config.datasets import Text
from saelib.config.files import LocalFiles
from saelib.datasets import open_dataset
from saelib.datasets.passages import passages
from saelib.datasets.text import StreamedText
from saelib.errors import UserError


def sentences(count: int) -> list[str]:
    """Returns sentences that all differ."""
    return [f"Sentence {i} of this book says that {i * i} is the square of {i}." for i in range(count)]


def splits(data, seed=0, fraction=0.3):
    return [list(data.examples(split, seed, fraction)) for split in ("train", "heldout")]


def lone(tmp_path, content, **options):
    (tmp_path / "book.txt").write_text(content, encoding="utf-8")
    return open_dataset(Text(kind="text", files=(LocalFiles(path=tmp_path / "book.txt"),), **options))


@pytest.mark.parametrize("between", ["\n", " "], ids=["lines", "one line"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_text_file_has_both_splits_and_every_sentence_once(tmp_path, between, seed):
    book = sentences(3000)
    data = lone(tmp_path, between.join(book))
    train, heldout = splits(data, seed)
    whole = " ".join(one.content.replace("\n", " ") for one in sorted(train + heldout, key=start))
    assert whole == " ".join(book)
    assert abs(len(heldout) / len(train + heldout) - 0.3) < 0.05
    assert not {one.group for one in train} & {one.group for one in heldout}
    assert len({one.group for one in train + heldout}) == 20
    assert all(450 < len(one.content) < 1600 for one in train + heldout)
    assert [one.id for one in splits(data, seed)[0]] == [one.id for one in train]
    assert [one.id for one in train] != sorted(one.id for one in train)


def start(example) -> int:
    return int(re.search(r":(\d+)-", example.id)[1])


def test_a_passage_that_comes_again_in_another_block_is_in_one_split(tmp_path):
    verses = [f"{'word ' * 30}{i}" for i in range(200)]
    refrain = "And so it goes, and so it went, and so it will be sung again. " * 4
    data = lone(tmp_path, "\n".join(f"{verse}\n{refrain}" for verse in verses), characters=100)
    train, heldout = splits(data)
    assert train
    assert heldout
    assert not {one.content for one in train} & {one.content for one in heldout}
    assert data.counts["passages"] > 0


def test_a_short_text_cannot_be_cut_and_one_that_repeats_itself_neither(tmp_path):
    with pytest.raises(UserError, match=r"book\.txt\): has one document only, of 399 characters.*give more documents"):
        splits(lone(tmp_path, "x" * 399))
    with pytest.raises(UserError, match="not all alike"):
        splits(lone(tmp_path, "x" * 200 + "\n" + "x" * 200, characters=100))
    assert all(splits(lone(tmp_path, "a" * 200 + "\n" + "b" * 200)))


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.98])
def test_few_documents_are_in_both_splits_whatever_the_seed(number, fraction):
    documents = [("d", f"document {i}") for i in range(number)]
    data = StreamedText(lambda: documents, "few", Text(kind="text", files=(LocalFiles(path="unused"),)))
    for seed in range(40):
        train, heldout = splits(data, seed, fraction)
        assert train
        assert heldout
        assert sorted(one.content for one in train + heldout) == [text for _, text in documents]


def test_passages_of_a_text_without_line_ends():
    rng = np.random.default_rng(0)
    words = " ".join("x" * int(rng.integers(1, 12)) for _ in range(5000))
    cut = list(passages(words, 500))
    assert "".join(words[start:stop] for start, stop in cut) == words
    assert all(400 < stop - start < 600 for start, stop in cut)
    assert all(words[stop - 1] == " " for _, stop in cut[:-1])
    letters = "あ" * 2000
    assert [stop - start for start, stop in passages(letters, 500)] == [500] * 4
