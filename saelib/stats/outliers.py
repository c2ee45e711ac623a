"""Outlier dimensions: those that hold much of the mean."""

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
