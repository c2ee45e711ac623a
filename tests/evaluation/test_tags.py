"""Tokens of a text get the tags of the words that they share a character with, and each word is one domain."""

import numpy as np
import polars as pl
import pytest

from saelib.config.datasets import TaggedText
from saelib.config.evaluation import TagLabels
from saelib.config.files import LocalFiles
from saelib.datasets import open_dataset
from saelib.errors import UserError
from saelib.evaluation.example_labels import label_tokens

TEXT = "The/at big/jj dogs/nns bark/vb ./.\nThey/ppss see/vb the/at cats/nns ./.\n"


@pytest.fixture
def files(tmp_path):
    for number in range(6):
        (tmp_path / f"c{number}").write_text((TEXT + f"Cat{number}/np sleeps/vbz ./.\n") * 5)
    return (LocalFiles(path=tmp_path),)


def tables(examples, cut):
    """Examples with tokens of `cut` characters."""
    spans = [[(start, min(start + cut, len(one.content))) for start in range(0, len(one.content), cut)] for one in examples]  # fmt: skip  # noqa: E501
    counts = [len(own) for own in spans]
    found = pl.DataFrame(
        {
            "id": [one.id for one in examples],
            "text": [one.content for one in examples],
            "first_token": np.cumsum([0, *counts[:-1]]),
            "tokens": counts,
        }
    )
    flat = [span for own in spans for span in own]
    example = np.repeat(np.arange(len(counts)), counts)
    starts, ends = zip(*flat, strict=True)
    return found, pl.DataFrame({"example": example, "start": starts, "end": ends})


@pytest.mark.parametrize("characters", [60, None])
@pytest.mark.parametrize("cut", [1, 3])
def test_every_token_of_a_word_has_its_tags(files, characters, cut):
    data = open_dataset(TaggedText(kind="tagged_text", files=files, characters=characters))
    examples, tokens = tables(list(data.examples("heldout", 0, 0.5)), cut)
    labels = label_tokens(TagLabels(kind="tags", files=files), examples, tokens, "m")
    texts = examples["text"].to_list()
    has = labels.matrix().toarray()
    of_tag = dict(zip(labels.concepts, has.T, strict=True))
    for token, (example, start, end) in enumerate(tokens.iter_rows()):
        for word, tag in (("dogs", "tag: nns"), ("bark", "tag: vb"), ("sleeps", "tag: vbz")):
            places = [at for at in range(len(texts[example])) if texts[example].startswith(word, at)]
            if any(start < at + len(word) and end > at for at in places):
                assert of_tag[tag][token]
    nouns = sum(text.count("dogs") + text.count("cats") for text in texts)
    assert labels.table()["tag: nns"] == nouns
    assert has[:, [name.startswith("class: ") for name in labels.concepts]].sum(axis=1).max() == (1 if cut == 1 else 2)


def test_other_files_are_an_error(files, tmp_path):
    data = open_dataset(TaggedText(kind="tagged_text", files=files, characters=60))
    examples, tokens = tables(list(data.examples("heldout", 0, 0.5)), 1)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "c0").write_text(TEXT)
    labels = TagLabels(kind="tags", files=(LocalFiles(path=tmp_path / "else"),))
    with pytest.raises(UserError, match="is not from the files of its labels of kind tags"):
        label_tokens(labels, examples, tokens, "m")
    for number in range(6):
        (tmp_path / f"c{number}").write_text(TEXT.replace("dogs", "cows"))
    with pytest.raises(UserError, match="has another text in the files of its labels of kind tags"):
        label_tokens(TagLabels(kind="tags", files=files), examples, tokens, "m")
