"""Labels of the tokens of a pass, from annotations, folders or tables that the config names."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.config.evaluation import AnnotationLabels, FolderLabels, LabelsConfig, TagLabels
from saelib.datasets.listing import list_files
from saelib.datasets.tagged import ALLOWED, is_tagged
from saelib.errors import UserError
from saelib.evaluation.annotations import Record, read_annotations, read_labels
from saelib.evaluation.labels import Labels
from saelib.evaluation.tags import label_words

if TYPE_CHECKING:
    import polars as pl


def label_tokens(labels: LabelsConfig, examples: "pl.DataFrame", tokens: "pl.DataFrame", name: str) -> Labels:
    """Labels the tokens of a pass.

    Args:
        labels: The labels in the config.
        examples: The table of examples (`saelib.evaluation.seen`).
        tokens: The table of tokens.
        name: The name of the model in messages.

    Raises:
        UserError: If the labels cannot be read, or if none of them is about these examples.
    """
    if isinstance(labels, FolderLabels):
        folders = [str(one).rpartition("#")[0].rpartition("/")[0] for one in examples["id"]]
        if len(set(folders)) < 2:
            raise UserError(
                f"{name}: its {examples.height} held-out images are all from one folder; labels of kind folders need "
                "two or more, each named in the data set's files"
            )
        return label_examples(folders, tokens)
    if tokens["start"].null_count():
        raise UserError(f"{name}: its tokens cannot be traced back to the examples, so annotations do not apply")
    if isinstance(labels, AnnotationLabels):
        return _of_annotations(_records(labels), examples, tokens, name)
    if isinstance(labels, TagLabels):
        files = list_files("labels", labels.files, is_tagged, ALLOWED).files
        return label_words(files, examples, tokens, name)
    return _of_table(labels, tokens, name)


def label_examples(values: Sequence[str], tokens: "pl.DataFrame") -> Labels:
    """Labels each token by a value of its example, which is one domain."""
    example = tokens["example"].to_numpy().astype(np.int64)
    concepts = sorted(set(values))
    number = {name: index for index, name in enumerate(concepts)}
    concept = np.array([number[value] for value in values], np.int64)[example]
    return Labels(len(example), tuple(concepts), np.arange(len(example)), concept, example)


class Halves(NamedTuple):
    """Tokens of the two halves of the examples."""

    validation: NDArray[np.intp]
    test: NDArray[np.intp]


def split_tokens(groups: Sequence[str], counts: Sequence[int], kind: str) -> Halves:
    """Splits tokens in two halves, whole groups (documents, photographs, records) at a time.

    Rows of activation files are split in the middle, because neighboring rows are often of one document.

    Args:
        groups: The group of each example.
        counts: Tokens of each example.
        kind: What an example is (`HeldOut.kind`).
    """
    of_example = np.repeat(np.arange(len(counts)), counts)
    if kind == "row":
        middle = len(of_example) // 2
        return Halves(np.arange(middle), np.arange(middle, len(of_example)))
    sizes: dict[str, int] = defaultdict(int)
    for group, count in zip(groups, counts, strict=True):
        sizes[group] += count
    filled, second = [0, 0], {}
    for group, size in sizes.items():
        second[group] = filled[1] < filled[0]
        filled[second[group]] += size
    in_second = np.array([second[group] for group in groups], bool)[of_example]
    return Halves(np.flatnonzero(~in_second), np.flatnonzero(in_second))


def take(labels: Labels, tokens: NDArray[np.intp]) -> Labels:
    """Takes some tokens, in increasing order, with their labels."""
    place = np.full(labels.tokens, -1)
    place[tokens] = np.arange(len(tokens))
    kept = place[labels.token] >= 0
    return Labels(len(tokens), labels.concepts, place[labels.token[kept]], labels.concept[kept], labels.domain[kept])


def _records(labels: AnnotationLabels) -> list[Record]:
    files = list_files("labels", labels.files, lambda file: True, "annotation").files
    return [record for file in files for record in read_annotations(file)]


def _of_annotations(records: Iterable[Record], examples: "pl.DataFrame", tokens: "pl.DataFrame", name: str) -> Labels:
    """Labels tokens by the annotations of the record that an example is, or is a window of."""
    records = list(records)
    whole = {record.sequence.upper(): record for record in records}
    start, end = (tokens[column].to_numpy().astype(np.int64) for column in ("start", "end"))
    found: list[tuple[str, NDArray[np.intp]]] = []
    matched = 0
    for row in examples.iter_rows(named=True):
        place = _place(row, whole, records)
        if place is None:
            continue
        matched += 1
        record, first = place
        own = slice(row["first_token"], row["first_token"] + row["tokens"])
        for annotation in record.annotations:
            covered = _covered(annotation.positions - first, len(row["text"]), start[own], end[own])
            if len(covered):
                found.append((annotation.concept, covered + own.start))
    if not matched:
        raise UserError(
            f"{name}: none of its {examples.height} held-out examples is a sequence of the annotation files; they "
            "should hold the same sequences, letter by letter"
        )
    return Labels.of_occurrences(tokens.height, found)


def _place(row: dict[str, Any], whole: dict[str, Record], records: Sequence[Record]) -> tuple[Record, int] | None:
    """Finds the record of an example and where in it the example starts; None if there is no such record."""
    text = row["text"]
    if text in whole:
        return whole[text], 0
    window = re.search(r":(\d+)-(\d+)$", row["id"])
    if window is None:
        return None
    first, last = map(int, window.groups())
    same = (record for record in records if record.sequence[first:last].upper() == text)
    return next(((record, first) for record in same), None)


def _covered(
    positions: NDArray[np.int64], length: int, start: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Finds the tokens, of spans [start, end), that cover any of these positions of their text."""
    inside = np.zeros(length, bool)
    inside[positions[(positions >= 0) & (positions < length)]] = True
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(inside)])
    return np.flatnonzero(before[end] > before[start])


def _of_table(labels: Any, tokens: "pl.DataFrame", name: str) -> Labels:
    """Labels rows of activation files by the rows of a table."""
    read = read_labels(labels.file.path, labels.columns)
    rows = tokens["start"].to_numpy().astype(np.int64)
    if len(rows) and read.tokens <= rows.max():
        raise UserError(
            f"{labels.file.path}: has {read.tokens:,} rows, but {name} has activations of row {rows.max():,}; should "
            "have a row for each row of the activation files"
        )
    return take(read, rows)
