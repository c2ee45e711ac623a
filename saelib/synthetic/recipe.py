"""The recipe of SynthSAEBench-16k (Chanin and Garriga-Alonso 2026, arXiv 2602.14687), version 2, from its description.

Frequencies follow a power law of the feature's rank. The most frequent features are roots of trees, the next ones their
children, and so on; those that remain are free. The base probabilities of children are raised so that, with what
their parents and siblings take away, features fire about as often as the power law says.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Recipe:
    """The sizes of an edition, and what all editions share."""

    n_features: int
    d_in: int
    roots: int
    """Trees. Each has `depth` levels below its root, and `children` children per parent, of which one at most fires."""
    children: int = 4
    depth: int = 3
    exponent: float = 0.5
    highest: float = 0.4
    lowest: float = 5e-4
    """Probabilities of the most and the least frequent feature."""
    rank: int = 25
    correlation: float = 0.1
    """Rank and scale of the factor of the correlations between the normal variables that decide what fires."""
    mean_first: float = 5.0
    mean_last: float = 4.0
    """Mean magnitude of the most and the least frequent feature."""
    deviation_mean: float = 0.5
    deviation_spread: float = 0.5
    """Mean and deviation of the normal variable whose absolute value is a feature's deviation of magnitudes."""
    steps: int = 100
    rate: float = 3e-4
    """Adam's steps and learning rate that make the features more orthogonal."""
    offset: float = 0.5
    """Length of the offset, in a random direction."""

    @cached_property
    def levels(self) -> list[range]:
        """The features of each level of the trees, roots first."""
        levels, start = [], 0
        for depth in range(self.depth + 1):
            levels.append(range(start, start + self.roots * self.children**depth))
            start = levels[-1].stop
        return levels

    @cached_property
    def first_child(self) -> NDArray[np.int32]:
        """[n_features], the first of `children` consecutive ones; -1 if there are none."""
        first = np.full(self.n_features, -1, np.int32)
        for level, below in zip(self.levels, self.levels[1:], strict=False):
            first[level.start : level.stop] = below.start + self.children * np.arange(len(level))
        return first

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """[n_features], the power law, between `highest` and `lowest`."""
        law = np.arange(1, self.n_features + 1) ** -self.exponent
        return self.lowest + (self.highest - self.lowest) * (law - law[-1]) / (law[0] - law[-1])

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """[n_features], of firing given that the parent fires and before siblings exclude each other."""
        p = self.frequencies.copy()
        for parent in np.flatnonzero(self.first_child >= 0):
            siblings = slice(self.first_child[parent], self.first_child[parent] + self.children)
            base = self.frequencies[siblings]
            # The others that fire with one, on average, each take away its share.
            p[siblings] = base / self.frequencies[parent] * (1 + (base.sum() - base) / self.frequencies[parent])
        return np.minimum(p, 1.0)

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """[n_features], mean magnitudes."""
        return np.linspace(self.mean_first, self.mean_last, self.n_features)

    def deviations(self, seed: int) -> NDArray[np.float32]:
        """[n_features], deviations of magnitudes. SAELens derives the same ones from the seed of its configuration."""
        import torch

        normal = torch.randn(self.n_features, generator=torch.Generator().manual_seed(seed + 1))
        return (self.deviation_mean + self.deviation_spread * normal).abs().numpy()

    def factor(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """[n_features, rank]: correlations between features are the products of its rows."""
        factor = self.correlation * rng.standard_normal((self.n_features, self.rank))
        shared = (factor**2).sum(axis=1, keepdims=True)
        return (factor * np.sqrt(np.minimum(1, 0.99 / shared))).astype(np.float32)

    def features(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draws unit rows [n_features, d_in], and makes them more orthogonal: many more rows than columns cannot be."""
        rows = rng.standard_normal((self.n_features, self.d_in)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        slope, square = np.zeros_like(rows), np.zeros_like(rows)
        for step in range(1, self.steps + 1):
            gradient = _overlap_gradient(rows)
            slope += (gradient - slope) * np.float32(0.1)
            square += (gradient**2 - square) * np.float32(0.001)
            root = np.sqrt(square / np.float32(1 - 0.999**step)) + np.float32(1e-8)
            rows -= np.float32(self.rate / (1 - 0.9**step)) * slope / root
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


RECIPES = {"16k": Recipe(16_384, 768, roots=128), "small": Recipe(1024, 128, roots=8)}


def _overlap_gradient(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gradient of sum_(i != j) (f_i . f_j)^2 + n sum_i (f_i . f_i - 1)^2, without the [n, n] products."""
    squares = np.einsum("nd,nd->n", rows, rows)[:, None]
    return 4 * (rows @ (rows.T @ rows) - squares * rows + np.float32(len(rows)) * (squares - 1) * rows)
