"""Chooses the examples that a latent is shown with: those where it fires most, and random ones where it fires."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TOP, RANDOM = 8, 4
"""Examples of each kind."""
REACH = 192
"""Tokens on either side of the peak for which activations are kept. Images keep all of theirs."""
LEVELS = 255
"""Steps between 0 and the latent's largest activation."""
BINS = 12
"""Bars of a latent's histogram."""


class Shown(NamedTuple):
    """A latent in one example."""

    example: int
    """Number of the example."""
    peak: int
    """Token of the example in which it fires most, from 0."""
    tokens: NDArray[np.int64]
    """Tokens of the example in which it fires, in order."""
    levels: NDArray[np.int64]
    """Their activations as whole numbers from 1 to `LEVELS`, which is the latent's largest, with their signs."""


class LatentExamples(NamedTuple):
    """All that is shown of one latent."""

    largest: float
    """The largest absolute activation; 0 if it never fires."""
    histogram: list[int]
    """Number of activations in `BINS` equal steps from 0 to the largest; empty if it never fires."""
    top: list[Shown]
    """Examples with the highest peaks, highest first."""
    random: list[Shown]
    """Other examples in which it fires, drawn at random, in their own order."""


def latent_examples(
    codes: Any, first_token: NDArray[np.int64], seed: int = 0, *, whole: bool = False
) -> Iterator[LatentExamples]:
    """Yields what is shown of each latent, in their order.

    Args:
        codes: A `csc_array` [tokens, latents] without stored zeros.
        first_token: The first token of each example, in order.
        seed: Decides the random examples.
        whole: Whether activations far from the peak are kept too.
    """
    codes.sort_indices()
    rng = np.random.default_rng(seed)
    for start, stop in zip(codes.indptr[:-1], codes.indptr[1:], strict=True):
        yield _of_latent(codes.indices[start:stop], codes.data[start:stop], first_token, rng, None if whole else REACH)


def _of_latent(
    rows: NDArray[np.integer],
    values: NDArray[np.floating],
    first_token: NDArray[np.int64],
    rng: np.random.Generator,
    reach: int | None,
) -> LatentExamples:
    """Chooses examples of one latent from the tokens (in order) in which it fires."""
    if not len(rows):
        return LatentExamples(0.0, [], [], [])
    size = np.abs(values)
    largest = float(size.max())
    levels = (np.sign(values) * np.maximum(1, np.rint(size / largest * LEVELS))).astype(np.int64)
    example = np.searchsorted(first_token, rows, side="right") - 1
    bounds = np.append(np.flatnonzero(np.diff(example, prepend=-1)), len(rows))
    order = np.argsort(-np.maximum.reduceat(size, bounds[:-1]), kind="stable")
    rest = order[TOP:]
    chosen = np.sort(rng.choice(rest, min(RANDOM, len(rest)), replace=False))

    def shown(run: int) -> Shown:
        inside = slice(bounds[run], bounds[run + 1])
        number = int(example[bounds[run]])
        tokens = rows[inside].astype(np.int64) - first_token[number]
        peak = int(tokens[np.argmax(size[inside])])
        near = slice(None) if reach is None else np.abs(tokens - peak) <= reach
        return Shown(number, peak, tokens[near], levels[inside][near])

    histogram = np.histogram(size, BINS, (0, largest))[0].tolist()
    return LatentExamples(largest, histogram, [shown(run) for run in order[:TOP]], [shown(run) for run in chosen])
