"""Activations whose true features are known: sparse sums of unit vectors, and a mean of any size.

x = sum_i a_i f_i + offset: of `n_features` random unit vectors f_i exactly `active` are present, drawn uniformly, with
a_i = |g| + 1/2 and g standard normal; the offset lies along the first axis (paper, appendix A.1.2).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError

# First and second moment of |g| + 1/2
MEAN_A = 0.5 + math.sqrt(2 / math.pi)
MEAN_A2 = 1.25 + math.sqrt(2 / math.pi)


@dataclass(frozen=True, eq=False)
class SparseFeatures:
    """A distribution of activations."""

    features: NDArray[np.float64]
    """[n_features, d_in], unit rows."""
    active: int
    offset: NDArray[np.float64]
    """[d_in]"""

    @property
    def mean(self) -> NDArray[np.float64]:
        """Exact mean [d_in]: the offset, and the features' own."""
        return self.offset + self.active / len(self.features) * MEAN_A * self.features.sum(axis=0)

    @property
    def signal_norm(self) -> float:
        """||sigma||: the root of the exact total variance."""
        n, active = self.features.shape[0], self.active
        total = self.features.sum(axis=0)
        pairs = total @ total - n  # sum over i != j of f_i . f_j
        second_moment = active * MEAN_A2 + pairs * MEAN_A**2 * active * (active - 1) / (n * (n - 1))
        mean = self.mean - self.offset
        return math.sqrt(second_moment - mean @ mean)

    @property
    def gamma(self) -> float:
        """Exact outlier severity ||mean|| / ||sigma||, of raw activations."""
        return float(np.linalg.norm(self.mean)) / self.signal_norm

    def sample(self, tokens: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Independent activations [tokens, d_in]."""
        n = len(self.features)
        present = rng.random((tokens, n), dtype=np.float32).argpartition(self.active - 1, axis=1)[:, : self.active]
        a = np.zeros((tokens, n))
        np.put_along_axis(a, present, np.abs(rng.standard_normal(present.shape)) + 0.5, axis=1)
        return (a @ self.features + self.offset).astype(np.float32)


def sparse_features(gamma: float, seed: int, d_in: int = 50, n_features: int = 100, active: int = 5) -> SparseFeatures:
    """Random features and an offset of norm `gamma` ||sigma||; the defaults are the paper's.

    The features' own mean makes the exact `SparseFeatures.gamma` differ a little; for the defaults it is about 0.2
    where `gamma` is 0.
    """
    if not 1 <= active <= n_features or n_features < 2 or gamma < 0:
        raise UserError(f"gamma = {gamma}, active = {active}, n_features = {n_features}: no such synthetic data")
    features = np.random.default_rng(seed).standard_normal((n_features, d_in))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    centered = SparseFeatures(features, active, np.zeros(d_in))
    offset = np.zeros(d_in)
    offset[0] = gamma * centered.signal_norm
    return SparseFeatures(features, active, offset)
