"""Finds the carriers of the mean: outlier dimensions, and tokens of extreme length."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTLIER_SHARE = 0.05
"""A dimension with less of the mean's square than this is not named."""
SHOWN = 8
MASSIVE = 10.0
"""Times the median length: a token longer than that is called massive."""


@dataclass(frozen=True)
class OutlierDimension:
    """A dimension that holds much of the mean."""

    index: int
    mean: float
    """Mean of the activations as they are."""
    std: float
    """Standard deviation of the activations as they are."""
    share: float
    """Share of the squared length of the mean of the tokens at unit length, which is the mean that decides death."""


@dataclass(frozen=True)
class MassiveTokens:
    """Tokens that are more than `MASSIVE` times as long as the median one, such as attention sinks."""

    share: float
    """Share of all tokens."""
    norm_ratio: float
    """Length of the longest token over that of the median one, massive or not."""
    position: int | None
    """Position in the example, from 0, at which most of them stand; None without massive tokens or examples."""
    at_position: float | None
    """The share of the massive tokens that stand there."""


def outlier_dimensions(
    unit_mean: NDArray[np.float64], mean: NDArray[np.floating], std: NDArray[np.floating]
) -> list[OutlierDimension]:
    """Lists the dimensions that hold at least 5 % of the mean's square each, the largest first, eight at most."""
    squares = np.square(unit_mean)
    total = squares.sum()
    if total == 0:
        return []
    shares = squares / total
    largest = np.argsort(-shares, kind="stable")[:SHOWN]
    return [
        OutlierDimension(int(index), float(mean[index]), float(std[index]), float(shares[index]))
        for index in largest
        if shares[index] >= OUTLIER_SHARE
    ]


def massive_tokens(norms: NDArray[np.float32], positions: NDArray[np.int64] | None) -> MassiveTokens:
    """Counts the tokens of extreme length.

    Args:
        norms: Length of each token [tokens]. Tokens of zeros are left out of the median.
        positions: Each token's place in its example [tokens]; None if that is not known.
    """
    lengths = norms[norms > 0]
    median = float(np.median(lengths)) if len(lengths) else 1.0
    massive = norms > MASSIVE * median
    position = at_position = None
    if positions is not None and massive.any():
        places, counts = np.unique(positions[massive], return_counts=True)
        position, at_position = int(places[counts.argmax()]), float(counts.max() / massive.sum())
    return MassiveTokens(float(massive.mean()), float(norms.max()) / median, position, at_position)
