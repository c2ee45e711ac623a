"""What probes saw of a layer's tokens, and the death that it predicts."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.theory import cap_law

BINS = 96
_BINS_PER_SD = 16
"""Bins of the histograms of cosines, in standard deviations 1 / sqrt(d): they end at 6, where 1e-9 of a sphere lies."""

_POINTS = (np.arange(4) + 0.5) / 4
"""Where in a bin its cosines are taken to lie."""


def bins_per_cosine(d: int) -> float:
    """Bins of the histogram from cosine 0 to 1."""
    return _BINS_PER_SD * math.sqrt(d)


@dataclass(frozen=True)
class DeathEstimate:
    """Predicted death of untrained dictionaries: fractions of the latents in [0, 1].

    `se_...` is the standard error of the expected value, by the number of probes. `sd_...` is the standard deviation of
    single dictionaries about it, as if latents died independently: real layers have 1.0 to 1.3 times that, Gaussian
    tokens about a strong mean, which move all bars together, up to twice.
    """

    dead_relu: float
    """Positive on no token."""
    dead_topk_only: float
    """Positive on some token, selected on none."""
    dead_total: float
    """Selected on no token: the sum of the two."""
    se_relu: float
    se_topk_only: float
    se_total: float
    sd_relu: float
    sd_topk_only: float
    sd_total: float
    floor: float
    """What isotropic tokens would leave dead, (1 - k / d_sae)^tokens, and no preprocessing can be expected to better;
    0 where each token selects by a threshold."""


@dataclass(frozen=True, eq=False)
class ProbedDeath:
    """What random probes saw of a layer's tokens under one preprocessing. `probe_death` makes it."""

    d: int
    """Dimensions that the SAE reads."""
    curve_tokens: tuple[int, ...]
    """1, 2, 4, ... and all tokens."""
    largest_cosine: NDArray[np.float32]
    """[curve_tokens, probes]; over the tokens up to there, as all that follow. Tokens of zeros are left out."""
    largest_product: NDArray[np.float32]
    """[curve_tokens, probes]; the same of pre-activations."""
    counts: NDArray[np.int32]
    """[curve_tokens, probes, BINS]; positive cosines by size."""
    lengths: NDArray[np.float32]
    """[tokens]."""
    near_cosines: NDArray[np.float32]
    """Cosines between tokens that are near the same probe: their quantiles."""

    @property
    def tokens(self) -> int:
        """All that were seen."""
        return self.curve_tokens[-1]

    @property
    def probes(self) -> int:
        """Random unit vectors."""
        return self.largest_cosine.shape[1]

    def __repr__(self) -> str:
        """Shows sizes, not arrays."""
        return f"ProbedDeath({self.probes:,} probes, {self.tokens:,} tokens, d={self.d:,})"

    def dead(self, d_sae: int, k: int, tokens: int | None = None) -> DeathEstimate:
        """Predicts the death of a TopK dictionary.

        Args:
            d_sae: Latents of the dictionary.
            k: Latents selected on a token.
            tokens: Tokens that death is counted over, the first ones of those seen; None: all. Between the points of
                `curve_tokens` it is interpolated in the logarithm.

        Raises:
            UserError: If k does not lie between 1 and d_sae, or tokens between 1 and those seen.
        """
        self._check(d_sae, k, tokens)
        correlation = self._bar_correlation(k / d_sae)
        total = self._at(tokens, lambda row: self._passed_over(row, d_sae, k, correlation))
        return self._estimate(total, d_sae, tokens, floor=(1 - k / d_sae) ** (tokens or self.tokens))

    def dead_batch_topk(self, d_sae: int, k: int, tokens: int | None = None) -> DeathEstimate:
        """Predicts the death of a BatchTopK dictionary, for large batches: arguments as for `dead`.

        The batch has one bar (`cap_law.batch_threshold`). Long tokens pass it more easily and short ones less.
        """
        self._check(d_sae, k, tokens)
        bars = [cap_law.batch_threshold(self.lengths[:seen], self.d, d_sae, k) for seen in self.curve_tokens]
        return self._estimate(self._at(tokens, lambda row: self._below(row, bars[row])), d_sae, tokens)

    def dead_below(self, threshold: float, d_sae: int, tokens: int | None = None) -> DeathEstimate:
        """Predicts the death of a dictionary that selects what exceeds a threshold: JumpReLU, or ReLU with 0.

        Args:
            threshold: 0 or more, in the units of the preprocessed activations.
            d_sae: Latents; only the spread between dictionaries depends on it.
            tokens: As for `dead`.
        """
        self._check(d_sae, 1, tokens)
        if not threshold >= 0:
            raise UserError(f"threshold = {threshold}: must be 0 or more")
        return self._estimate(self._at(tokens, lambda row: self._below(row, threshold)), d_sae, tokens)

    def _passed_over(self, row: int, d_sae: int, k: int, correlation: float) -> NDArray[np.float64]:
        """[probes]: the probability that TopK never selects each."""
        largest = self.largest_cosine[row]
        of_largest = cap_law.log_passed_over(cap_law.tail_mass(largest, self.d), d_sae, k, correlation)
        cosines = (np.arange(BINS)[:, None] + _POINTS) / bins_per_cosine(self.d)
        of_bins = cap_law.log_passed_over(cap_law.tail_mass(cosines, self.d), d_sae, k, correlation).mean(axis=1)
        # The largest cosine counts as it is, and not as its bin.
        place = np.clip((largest * bins_per_cosine(self.d)).astype(int), 0, BINS - 1)
        others = self.counts[row].astype(np.float64)
        others[np.arange(self.probes), place] -= largest > 0
        return np.where(largest > 0, cap_law.over_the_factor(np.exp(others @ of_bins + of_largest)), 1.0)

    def _bar_correlation(self, share: float) -> float:
        """Of the bars of tokens that are near the same probe."""
        if share >= 1:
            return 0.0
        correlations = cap_law.cap_correlation(self.near_cosines.astype(np.float64), share)
        return float(np.clip(correlations.mean(), 0, 0.999))

    def _below(self, row: int, threshold: float) -> NDArray[np.float64]:
        return (self.largest_product[row] <= threshold).astype(np.float64)

    def _estimate(
        self, total: NDArray[np.float64], d_sae: int, tokens: int | None, floor: float = 0.0
    ) -> DeathEstimate:
        """From the probability of each probe to be never selected: [probes]."""
        relu = self._at(tokens, lambda row: self._below(row, 0))
        total = np.maximum(total, relu)  # weights of the factor add up to 1 but for rounding
        parts = {"relu": relu, "topk_only": total - relu, "total": total}
        means = {f"dead_{name}": float(values.mean()) for name, values in parts.items()}
        # As if there were one more probe, half dead: without it, no dead probe would mean no error.
        rates = {name: (values.sum() + 0.5) / (self.probes + 1) for name, values in parts.items()}
        errors = {f"se_{name}": math.sqrt(rate * (1 - rate) / self.probes) for name, rate in rates.items()}
        spreads = {f"sd_{name}": math.sqrt(rate * (1 - rate) / d_sae) for name, rate in rates.items()}
        return DeathEstimate(**means, **errors, **spreads, floor=floor)

    def _at(self, tokens: int | None, of_row: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
        """What `of_row` gives of a row of the curve, interpolated for a number of tokens between two."""
        place = np.interp(math.log(tokens or self.tokens), np.log(self.curve_tokens), np.arange(len(self.curve_tokens)))
        row, part = int(place), place % 1
        return of_row(row) if part < 1e-9 else (1 - part) * of_row(row) + part * of_row(row + 1)

    def _check(self, d_sae: int, k: int, tokens: int | None) -> None:
        if not 1 <= k <= d_sae:
            raise UserError(f"k = {k}, d_sae = {d_sae}: k must lie between 1 and d_sae")
        if tokens is not None and not 1 <= tokens <= self.tokens:
            raise UserError(f"tokens = {tokens}: death was probed over {self.tokens} tokens, so 1 to {self.tokens}")
