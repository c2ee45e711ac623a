"""Activations whose true features are known: sparse sums of unit vectors, plus an offset of any size.

x = sum_i a_i f_i + offset. The f_i are `n_features` random unit vectors. Exactly `active` of them, drawn uniformly, are
present in a token, with a_i = |g| + 1/2 and g standard normal. The offset lies along the first axis (paper, appendix
A.1.2).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError

MEAN_A = 0.5 + math.sqrt(2 / math.pi)
"""First moment of |g| + 1/2."""
MEAN_A2 = 1.25 + math.sqrt(2 / math.pi)
"""Second moment of |g| + 1/2."""


@dataclass(frozen=True, eq=False)
class SparseFeatures:
    """A distribution of activations with known features."""

    features: NDArray[np.float64]
    """[n_features, d_in], unit rows."""
    active: int
    offset: NDArray[np.float64]
    """[d_in]"""

    @property
    def mean(self) -> NDArray[np.float64]:
        """Exact mean [d_in]: the offset plus the mean of the features' sum."""
        return self.offset + self.active / len(self.features) * MEAN_A * self.features.sum(axis=0)

    @property
    def signal_norm(self) -> float:
        """||sigma||, the square root of the exact total variance."""
        n, active = self.features.shape[0], self.active
        total = self.features.sum(axis=0)
        pairs = total @ total - n  # sum over i != j of f_i . f_j
        second_moment = active * MEAN_A2 + pairs * MEAN_A**2 * active * (active - 1) / (n * (n - 1))
        mean = self.mean - self.offset
        return math.sqrt(second_moment - mean @ mean)

    @property
    def gamma(self) -> float:
        """Exact outlier severity ||mean|| / ||sigma|| of the raw activations."""
        return float(np.linalg.norm(self.mean)) / self.signal_norm

    def sample(self, tokens: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draws independent activations [tokens, d_in]."""
        n = len(self.features)
        present = rng.random((tokens, n), dtype=np.float32).argpartition(self.active - 1, axis=1)[:, : self.active]
        a = np.zeros((tokens, n))
        np.put_along_axis(a, present, np.abs(rng.standard_normal(present.shape)) + 0.5, axis=1)
        return (a @ self.features + self.offset).astype(np.float32)


def sparse_features(gamma: float, seed: int, d_in: int = 50, n_features: int = 100, active: int = 5) -> SparseFeatures:
    """Draws random features and chooses an offset of norm `gamma` ||sigma||. The default sizes are the paper's.

    The exact `SparseFeatures.gamma` differs a little from `gamma`, because the features have a mean of their own: with
    the default sizes it is about 0.2 if `gamma` is 0.
    """
    if not 1 <= active <= n_features or n_features < 2 or gamma < 0:
        raise UserError(
            f"gamma = {gamma}, active = {active}, n_features = {n_features}: gamma must be 0 or more, n_features at "
            "least 2, and active between 1 and n_features"
        )
    features = np.random.default_rng(seed).standard_normal((n_features, d_in))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    centered = SparseFeatures(features, active, np.zeros(d_in))
    offset = np.zeros(d_in)
    offset[0] = gamma * centered.signal_norm
    return SparseFeatures(features, active, offset)
