"""The features in each token, in compressed rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Codes:
    """The features of tokens, with their magnitudes. Those of token i are at starts[i] to starts[i + 1]."""

    starts: NDArray[np.int64]
    """[tokens + 1]"""
    indices: NDArray[np.int32]
    """Features; those of one token are in no particular order, and differ."""
    values: NDArray[np.float32]
    """Their magnitudes: the signal is the sum of magnitude * feature, plus what the settings add."""

    def dense(self, n_features: int) -> NDArray[np.float32]:
        """Returns the magnitudes [tokens, n_features], with 0 for features that are absent."""
        out = np.zeros((len(self.starts) - 1, n_features), np.float32)
        out[np.repeat(np.arange(len(out)), np.diff(self.starts)), self.indices] = self.values
        return out
