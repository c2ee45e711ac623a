"""Annotations of sequences, as the page shows them along the examples."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saelib.errors import UserError
from saelib.evaluation.annotations import Record, read_annotations

if TYPE_CHECKING:
    import polars as pl

    from saelib.evaluation.seen import Seen


def annotations_of(seen: "Seen", path: Path) -> "pl.DataFrame":
    """Reads the annotations of a file that belong to the examples of an evaluation.

    A record belongs to the examples whose sequence is part of its own.

    Returns:
        A table with the columns example, start, end (exclusive) and concept.

    Raises:
        UserError: If no example is part of a record.
    """
    import polars as pl

    records = {record.name: record for record in read_annotations(path)}
    rows = []
    for example, name, text in seen.examples.select("example", "id", "text").iter_rows():
        record = records.get(name.partition(":")[0])
        place = -1 if record is None or text is None else record.sequence.find(text)
        if record is not None and place >= 0:
            rows += [(example, *stretch) for stretch in _stretches(record, place, place + len(text))]
    if not rows:
        raise UserError(f"{path}: no example of {seen.folder} has the name and the letters of an annotated record")
    return pl.DataFrame(rows, ["example", "start", "end", "concept"], orient="row")


def _stretches(record: Record, start: int, stop: int) -> list[tuple[int, int, str]]:
    """Finds the unbroken stretches of a record's annotations between two places, relative to the first."""
    found = []
    for concept, positions in record.annotations:
        inside = positions[(positions >= start) & (positions < stop)] - start
        bounds = [0, *(np.flatnonzero(np.diff(inside) > 1) + 1), len(inside)]
        found += [(int(inside[a]), int(inside[b - 1]) + 1, concept) for a, b in pairwise(bounds) if b > a]
    return found
