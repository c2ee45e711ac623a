"""Finds tokens of extreme length."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saelib.stats.outliers import MASSIVE


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
