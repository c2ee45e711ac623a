"""Labels of the tokens of texts: the parts of speech and other tags of the words that they belong to."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saelib.datasets.tagged import Document, Word, documents
from saelib.errors import UserError
from saelib.evaluation.labels import Labels

if TYPE_CHECKING:
    import polars as pl


def label_words(files: Iterable[Path], examples: "pl.DataFrame", tokens: "pl.DataFrame", name: str) -> Labels:
    """Labels tokens by the tags of the words that they share a character with. Each word is one domain.

    Args:
        files: Tagged files, those of the data set.
        examples: The table of examples, passages of the files' documents (`saelib.evaluation.seen`).
        tokens: The table of tokens.
        name: The name of the model in messages.

    Raises:
        UserError: If a file cannot be read, or if an example is not from the files.
    """
    wanted = {_document_name(one): [] for one in examples["id"]}
    for row in examples.iter_rows(named=True):
        wanted[_document_name(row["id"])].append(row)
    start, end = (tokens[column].to_numpy().astype(np.int64) for column in ("start", "end"))
    found: list[tuple[str, NDArray[np.intp]]] = []
    for one in (one for file in files for one in documents(file) if one.name in wanted):
        for row in wanted.pop(one.name):
            first = _place(one, row["id"], row["text"], name)
            own = slice(row["first_token"], row["first_token"] + row["tokens"])
            last = first + len(row["text"])
            words = [word for word in one.words if word.concepts and first <= word.start and word.end <= last]
            for word, covering in zip(words, _covering(words, first, start[own], end[own]), strict=True):
                for concept in word.concepts if len(covering) else ():
                    found.append((concept, covering + own.start))
    if wanted:
        raise UserError(f"{name}: its example {next(iter(wanted))} is not from the files of its labels of kind tags")
    return Labels.of_occurrences(tokens.height, found)


def _document_name(identifier: str) -> str:
    return re.sub(r":\d+-\d+$", "", identifier)


def _place(document: Document, identifier: str, text: str, name: str) -> int:
    """Finds the first character of a passage in its document."""
    bounds = re.search(r":(\d+)-(\d+)$", identifier)
    first = int(bounds[1]) if bounds else 0
    place = document.text.find(text, first)
    if place < 0:
        raise UserError(f"{name}: its example {identifier} has another text in the files of its labels of kind tags")
    return place


def _covering(
    words: list[Word], first: int, start: NDArray[np.int64], end: NDArray[np.int64]
) -> list[NDArray[np.intp]]:
    """Finds the tokens, of spans [start, end), that share a character with each word."""
    return [np.flatnonzero((start < word.end - first) & (end > word.start - first) & (end > start)) for word in words]
