"""Sums of a few random unit vectors, with exact moments (paper, appendix A.1.2), and what can be added to them."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from saelib.config.synthetic import SyntheticConfig
from saelib.errors import UserError
from saelib.synthetic.codes import Codes
from saelib.synthetic.tails import token_factors

MEAN_A = 0.5 + math.sqrt(2 / math.pi)
"""First moment of a magnitude |g| + 1/2."""
MEAN_A2 = 1.25 + math.sqrt(2 / math.pi)
"""Second moment of a magnitude."""
TOKENS_AT_ONCE = 1024
"""Tokens whose random numbers and rows stay in the cache together."""


@dataclass(frozen=True, eq=False)
class SparseSignal:
    """The part of the data without an offset: weight * sum_i a_i f_i + normal values along a few directions."""

    config: SyntheticConfig
    features: NDArray[np.float64]
    """[n_features, d_in], unit rows."""
    weight: float
    """Factor of the features' sum; below 1 if a few directions hold most of the variance."""
    dense: NDArray[np.float64]
    """[low_rank, d_in]: orthogonal directions times the standard deviation along them."""
    contamination: NDArray[np.float64]
    """[d_in], added to contaminated tokens."""
    mean: NDArray[np.float64]
    """[d_in], exact."""
    covariance: NDArray[np.float64]
    """[d_in, d_in], exact (population)."""

    @property
    def norm(self) -> float:
        """||sigma||, the square root of the exact total variance."""
        return math.sqrt(np.trace(self.covariance))

    def sample(self, tokens: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], Codes]:
        """Draws independent rows [tokens, d_in], and the features in them."""
        active = self.config.active
        rows = np.zeros((tokens, self.config.d_in), np.float32)
        indices, values = np.empty((tokens, active), np.int32), np.empty((tokens, active), np.float32)
        for start in range(0, tokens, TOKENS_AT_ONCE):
            part = slice(start, start + TOKENS_AT_ONCE)
            self._fill(rows[part], indices[part], values[part], rng)
        values *= np.float32(self.weight)
        return rows, Codes(np.arange(tokens + 1) * active, indices.ravel(), values.ravel())

    def _fill(
        self,
        rows: NDArray[np.float32],
        indices: NDArray[np.int32],
        values: NDArray[np.float32],
        rng: np.random.Generator,
    ) -> None:
        """Draws tokens into `rows`, which are 0, and their features into [tokens, active] `indices` and `values`."""
        from saelib.synthetic.kernels import add_rows, choose

        tokens, n = len(rows), len(self.features)
        choose(rng.integers(0, 2**32, indices.shape, np.uint32), n, indices)
        values[:] = np.abs(rng.standard_normal(values.shape, np.float32)) + np.float32(0.5)
        along = rng.standard_normal((tokens, len(self.dense)), np.float32)
        factors = token_factors(self.config, tokens, rng)[:, None]
        values *= factors
        # Next to its features, a token has every dense direction and the part of the mean that its factor took away.
        others = np.broadcast_to(np.arange(n, len(self._added), dtype=np.int32), (tokens, len(self._added) - n))
        which = np.hstack([indices, others])
        terms = np.hstack([values, factors * along, 1 - factors])
        add_rows(np.arange(tokens + 1) * which.shape[1], which.ravel(), terms.ravel(), self._added, rows)
        if self.config.contaminated:
            rows[rng.random(tokens) < self.config.contaminated] += self.contamination.astype(np.float32)

    @cached_property
    def _added(self) -> NDArray[np.float32]:
        """[n_features + low_rank + 1, d_in]: all that tokens are sums of."""
        return np.vstack([self.weight * self.features, self.dense, self.mean]).astype(np.float32)


def sparse_signal(config: SyntheticConfig, seed: int) -> SparseSignal:
    """Draws the features and directions of a signal. They depend on the seed and the sizes, and not on the offset."""
    features = np.random.default_rng(seed).standard_normal((config.n_features, config.d_in))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    covariance = _covariance(features, config.active)
    weight, dense = _low_rank(config, covariance, np.random.default_rng([seed, 1]))
    direction = np.eye(config.d_in)[-1]
    if config.rotated:
        direction = random_directions(1, config.d_in, np.random.default_rng([seed, 2]))[0]
    contamination = config.contamination_size * math.sqrt(np.trace(covariance)) * direction
    mean = weight * _mean(features, config.active)
    return SparseSignal(config, features, weight, dense, contamination, mean, weight**2 * covariance + dense.T @ dense)


def random_directions(count: int, d_in: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws orthonormal rows [count, d_in], uniformly."""
    return np.linalg.qr(rng.standard_normal((d_in, count)))[0].T


def _mean(features: NDArray[np.float64], active: int) -> NDArray[np.float64]:
    return active / len(features) * MEAN_A * features.sum(axis=0)


def _covariance(features: NDArray[np.float64], active: int) -> NDArray[np.float64]:
    """Covariance of the features' sum. Two features are both present with probability k (k - 1) / (n (n - 1))."""
    n = len(features)
    total = features.sum(axis=0)
    squares = features.T @ features
    pairs = active * (active - 1) / max(n * (n - 1), 1) * MEAN_A**2 * (np.outer(total, total) - squares)
    mean = _mean(features, active)
    return active / n * MEAN_A2 * squares + pairs - np.outer(mean, mean)


def _low_rank(
    config: SyntheticConfig, covariance: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, NDArray[np.float64]]:
    """Returns the features' weight and the rows of `dense`, so that the directions hold their share of the variance."""
    directions = random_directions(config.low_rank, config.d_in, rng)
    if not config.low_rank:
        return 1.0, directions
    variance = np.trace(covariance)
    already = np.trace(directions @ covariance @ directions.T)
    if config.low_rank_share < already / variance:
        raise UserError(
            f"low_rank_share = {config.low_rank_share}: the {config.low_rank} directions of low_rank already hold "
            f"{already / variance:.3f} of the features' variance; give a larger share, or low_rank 0"
        )
    kept = (1 - config.low_rank_share) * variance / (variance - already)
    return math.sqrt(kept), math.sqrt((1 - kept) * variance / config.low_rank) * directions
