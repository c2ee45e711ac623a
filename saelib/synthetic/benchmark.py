"""The signal of SynthSAEBench: features with frequencies, correlations and trees (`saelib.synthetic.recipe`)."""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.synthetic.codes import Codes
from saelib.synthetic.recipe import RECIPES, Recipe

TOKENS_AT_ONCE = 1024
MEASURED_TOKENS = 2**17
"""Tokens of which the moments are taken: they have no closed form."""


@dataclass(frozen=True, eq=False)
class BenchmarkSignal:
    """Sums of features that fire as the recipe says."""

    recipe: Recipe
    seed: int
    features: NDArray[np.float32]
    """[n_features, d_in], unit rows, the most frequent first."""
    factor: NDArray[np.float32]
    """[n_features, rank]: the normal variables that decide what fires have correlations factor @ factor.T."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """[d_in], measured."""
        return self._measured[0]

    @property
    def norm(self) -> float:
        """||sigma||, measured."""
        return self._measured[1]

    def sample(self, tokens: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], Codes]:
        """Draws independent rows [tokens, d_in], and the features in them."""
        from saelib.synthetic.firing import fire
        from saelib.synthetic.kernels import add_rows

        out = np.zeros((tokens, self.recipe.d_in), np.float32)
        starts, indices, values = [np.zeros(1, np.int64)], [], []
        for start in range(0, tokens, TOKENS_AT_ONCE):
            rows = out[start : start + TOKENS_AT_ONCE]
            shared = rng.standard_normal((len(rows), self.recipe.rank), np.float32)
            own_starts, *own = fire(rng, shared, *self._tables)
            add_rows(own_starts, *own, self.features, rows)
            starts.append(starts[-1][-1] + own_starts[1:])
            indices.append(own[0])
            values.append(own[1])
        return out, Codes(np.concatenate(starts), np.concatenate(indices), np.concatenate(values))

    @cached_property
    def _tables(self) -> tuple[Any, ...]:
        """The arguments of `fire`. A variable of variance 1 less its shared part passes the threshold with Phi(x)."""
        from scipy.special import ndtri

        from saelib.synthetic.firing import phi_table

        recipe = self.recipe
        own = np.sqrt(1 - (self.factor.astype(np.float64) ** 2).sum(axis=1))
        slopes = (self.factor / own[:, None]).astype(np.float32)
        shifts = (np.clip(ndtri(recipe.probabilities), -1e3, 1e3) / own).astype(np.float32)
        free = np.arange(recipe.levels[-1].stop, recipe.n_features)
        always = np.concatenate([np.arange(recipe.roots), free]).astype(np.int32)
        magnitudes = recipe.means.astype(np.float32), recipe.deviations(self.seed)
        trees = recipe.first_child, recipe.children
        return slopes, shifts, *magnitudes, *trees, always, np.ascontiguousarray(slopes[always].T), phi_table()

    @cached_property
    def _measured(self) -> tuple[NDArray[np.float64], float]:
        rng = np.random.default_rng([self.seed, 6])
        total, squares = np.zeros(self.recipe.d_in), 0.0
        for _ in range(MEASURED_TOKENS // TOKENS_AT_ONCE):
            rows = self.sample(TOKENS_AT_ONCE, rng)[0]
            total += rows.sum(axis=0, dtype=np.float64)
            squares += float((rows.astype(np.float64) ** 2).sum())
        mean = total / MEASURED_TOKENS
        return mean, math.sqrt(squares / MEASURED_TOKENS - mean @ mean)


@cache
def benchmark_signal(edition: str, seed: int) -> BenchmarkSignal:
    """Draws the features and correlations of an edition. `16k` takes minutes: its features are made more orthogonal."""
    recipe = RECIPES[edition]
    features = recipe.features(np.random.default_rng(seed))
    return BenchmarkSignal(recipe, seed, features, recipe.factor(np.random.default_rng([seed, 4])))


def published_offset(recipe: Recipe, seed: int) -> NDArray[np.float64]:
    """Draws the recipe's offset [d_in]: a random direction of a short length."""
    direction = np.random.default_rng([seed, 5]).standard_normal(recipe.d_in)
    return recipe.offset / np.linalg.norm(direction) * direction
