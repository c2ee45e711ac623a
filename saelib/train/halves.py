"""Held-out rows in two halves: learning rates are chosen on one half, and results are measured on the other."""

import logging
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from saelib.evaluation.space import Sample

log = logging.getLogger(__name__)


def choosing_half(tokens: int, examples: NDArray[np.integer] | None, name: str) -> NDArray[np.bool_]:
    """Marks the rows that learning rates are chosen on, about half of them; results are measured on the others.

    Args:
        tokens: Rows, at least 2.
        examples: [tokens], the number of the example that each row came from. No example is in both halves: the first
            examples are in one half, the others in the other half. None: the same with rows instead of examples.
        name: Name of the rows in a warning that all of them come from one example.

    Returns:
        [tokens]. Neither half is empty.
    """
    numbers = np.arange(tokens) if examples is None else np.unique(examples, return_inverse=True)[1]
    if tokens > 1 and numbers.max() == 0:
        log.warning("%s: all come from one example; it is in both halves, that which rates are chosen on too", name)
        numbers = np.arange(tokens)
    up_to = np.bincount(numbers).cumsum()[:-1]  # rows of the first 1, 2, … examples
    return numbers <= np.argmin(np.abs(up_to - tokens / 2))


def only(samples: Iterable[Sample], marked: NDArray[np.bool_]) -> Iterator[Sample]:
    """The marked rows of samples that follow one another; `marked` is [tokens of all]."""
    start = 0
    for sample in samples:
        chosen = marked[start : start + len(sample.x)]
        start += len(sample.x)
        if chosen.any():
            yield sample.where(chosen)
