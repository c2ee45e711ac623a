"""Annotations of texts and sequences, as the page shows them along the examples."""

from typing import TYPE_CHECKING

import numpy as np

from saelib.config.evaluation import AnnotationLabels
from saelib.evaluation.example_labels import label_tokens

if TYPE_CHECKING:
    import polars as pl

    from saelib.evaluation.labels import Labels
    from saelib.evaluation.seen import Seen


def annotations_of(seen: "Seen", labels: AnnotationLabels, name: str) -> "pl.DataFrame":
    """Reads the annotations that belong to the examples of an evaluation.

    Args:
        seen: The evaluation.
        labels: The files with the annotations.
        name: The name of the model in messages.

    Returns:
        A table with the columns example, start, end (exclusive) and concept.

    Raises:
        UserError: If the files cannot be read, or if no example is a sequence of theirs.
    """
    return stretches(label_tokens(labels, seen.examples, seen.tokens, name), seen.tokens)


def stretches(labels: "Labels", tokens: "pl.DataFrame") -> "pl.DataFrame":
    """Joins labels of neighboring tokens that belong to one occurrence of a concept."""
    import polars as pl

    order = np.lexsort((labels.token, labels.domain))
    token, domain = labels.token[order], labels.domain[order]
    start, end, example = (tokens[name].to_numpy()[token] for name in ("start", "end", "example"))
    apart = (np.diff(token) > 1) | (np.diff(domain) != 0) | (np.diff(example) != 0)
    first = np.append(0, np.flatnonzero(apart) + 1)[: len(token)]
    if not len(first):
        return pl.DataFrame(schema={"example": pl.Int64, "start": pl.Int64, "end": pl.Int64, "concept": pl.String})
    return pl.DataFrame(
        {
            "example": example[first],
            "start": np.minimum.reduceat(start, first),
            "end": np.maximum.reduceat(end, first),
            "concept": [labels.concepts[number] for number in labels.concept[order][first]],
        }
    )
