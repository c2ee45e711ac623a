"""Products of random probes with a layer's tokens, summarized, and the death that they predict."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.theory import cap_law

Architecture = Literal["topk", "batch_topk", "relu", "jumprelu"]
"""Names of the SAEs whose death is predicted, as in the config."""

BINS = 96
_BINS_PER_SD = 16
"""A histogram of cosines has 16 bins per standard deviation, 1 / sqrt(d), and ends at 6 of them: only 1e-9 of a sphere
lies beyond."""

_POINTS = (np.arange(4) + 0.5) / 4
"""Places within a bin at which its cosines are assumed to lie."""


def bins_per_cosine(d: int) -> float:
    """Number of bins of the histogram from cosine 0 to 1."""
    return _BINS_PER_SD * math.sqrt(d)


@dataclass(frozen=True)
class DeathEstimate:
    """Predicted death of untrained dictionaries: fractions of the latents in [0, 1].

    `se_...` is the standard error of the expected value, which the number of probes limits. `sd_...` is the standard
    deviation of single dictionaries about it, if latents died independently. Real layers have 1.0 to 1.5 times as much,
    and Gaussian tokens about a strong mean, which moves all bars together, up to twice as much.
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
    """Death under isotropic tokens, (1 - k / d_sae)^tokens, which no preprocessing can be expected to improve on; 0 if
    tokens select by a threshold."""


@dataclass(frozen=True, eq=False)
class ProbedDeath:
    """Cosines of random probes with a layer's tokens under one preprocessing; `probe_death` makes it.

    Probes are in the order of their strata (`saelib.init_death.encoder.stratified_probes`).
    """

    d: int
    """Dimensions that the SAE reads."""
    curve_tokens: tuple[int, ...]
    """1, 2, 4, ... and all tokens."""
    largest_cosine: NDArray[np.float32]
    """[curve_tokens, probes]; row i is over the first curve_tokens[i] tokens, without those that are all zeros."""
    largest_product: NDArray[np.float32]
    """[curve_tokens, probes]; the largest pre-activation over the same tokens."""
    counts: NDArray[np.int32]
    """[curve_tokens, probes, BINS]; histograms of the positive cosines with the same tokens."""
    lengths: NDArray[np.float32]
    """[tokens]; Euclidean lengths after preprocessing."""
    near_cosines: NDArray[np.float32]
    """Quantiles of the cosines between tokens that are near the same probe."""

    @property
    def tokens(self) -> int:
        """Number of tokens that were read."""
        return self.curve_tokens[-1]

    @property
    def probes(self) -> int:
        """Number of random unit vectors."""
        return self.largest_cosine.shape[1]

    def __repr__(self) -> str:
        """Shows sizes, not arrays."""
        return f"ProbedDeath({self.probes:,} probes, {self.tokens:,} tokens, d={self.d:,})"

    def dead(self, d_sae: int, k: int, tokens: int | None = None) -> DeathEstimate:
        """Predicts the death of a TopK dictionary.

        Args:
            d_sae: Latents of the dictionary.
            k: Latents selected on a token.
            tokens: Number of tokens, from the first on, that death is counted over; None: all. Between the points of
                `curve_tokens`, death is interpolated over the logarithm of the number.

        Raises:
            UserError: If k is not between 1 and d_sae, or tokens not between 1 and the number that was read.
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

        def passed_over(row: int) -> NDArray[np.float64]:
            lengths = self.lengths[: self.curve_tokens[row]]
            return self._below(row, cap_law.batch_threshold(lengths, self.d, d_sae, k))

        return self._estimate(self._at(tokens, passed_over), d_sae, tokens)

    def dead_below(self, threshold: float, d_sae: int, tokens: int | None = None) -> DeathEstimate:
        """Predicts the death of a dictionary that selects what exceeds a threshold: JumpReLU, or ReLU with 0.

        Args:
            threshold: 0 or more, in the units of the preprocessed activations.
            d_sae: Latents; only the spread between dictionaries depends on it.
            tokens: See `dead`.
        """
        self._check(d_sae, 1, tokens)
        if not threshold >= 0:
            raise UserError(f"threshold = {threshold}: must be 0 or more")
        return self._estimate(self._at(tokens, lambda row: self._below(row, threshold)), d_sae, tokens)

    def dead_for(self, architecture: Architecture, d_sae: int, k: int) -> DeathEstimate:
        """Predicts the death of a dictionary by the name of its architecture, over all tokens.

        JumpReLU's thresholds start near 0, so before training it selects as ReLU does; neither uses `k`.
        """
        match architecture:
            case "topk":
                return self.dead(d_sae, k)
            case "batch_topk":
                return self.dead_batch_topk(d_sae, k)
            case "relu" | "jumprelu":
                return self.dead_below(0.0, d_sae)

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
        """Correlation of the bars of tokens that are near the same probe."""
        if share >= 1:
            return 0.0
        correlations = cap_law.cap_correlation(self.near_cosines.astype(np.float64), share)
        return float(np.clip(correlations.mean(), 0, 0.999))

    def _below(self, row: int, threshold: float) -> NDArray[np.float64]:
        return (self.largest_product[row] <= threshold).astype(np.float64)

    def _estimate(
        self, total: NDArray[np.float64], d_sae: int, tokens: int | None, floor: float = 0.0
    ) -> DeathEstimate:
        """Summarizes the probability of each probe to be never selected, [probes]."""
        relu = self._at(tokens, lambda row: self._below(row, 0))
        total = np.maximum(total, relu)  # weights of the factor add up to 1 but for rounding
        parts = {"relu": relu, "topk_only": total - relu, "total": total}
        means = {f"dead_{name}": float(values.mean()) for name, values in parts.items()}
        errors = {f"se_{name}": _standard_error(values) for name, values in parts.items()}
        # As if there were one more probe, half dead: without it, no dead probe would mean no spread.
        rates = {name: (values.sum() + 0.5) / (self.probes + 1) for name, values in parts.items()}
        spreads = {f"sd_{name}": math.sqrt(rate * (1 - rate) / d_sae) for name, rate in rates.items()}
        return DeathEstimate(**means, **errors, **spreads, floor=floor)

    def _at(self, tokens: int | None, of_row: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Evaluates `of_row` at a row of the curve, and interpolates for a number of tokens between two rows."""
        place = np.interp(math.log(tokens or self.tokens), np.log(self.curve_tokens), np.arange(len(self.curve_tokens)))
        row, part = int(place), place % 1
        return of_row(row) if part < 1e-9 else (1 - part) * of_row(row) + part * of_row(row + 1)

    def _check(self, d_sae: int, k: int, tokens: int | None) -> None:
        if not 1 <= k <= d_sae:
            raise UserError(f"k = {k}, d_sae = {d_sae}: k must lie between 1 and d_sae")
        if tokens is not None and not 1 <= tokens <= self.tokens:
            raise UserError(f"tokens = {tokens}: death was probed over {self.tokens} tokens, so 1 to {self.tokens}")


def _standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean over probes, from the differences of neighboring strata, which are nearly alike.

    It is the usual one if probes differ as much from their neighbors as from all others. The half counts as one more
    probe, half dead: without it, equal probes would mean no error.
    """
    n = len(values)
    variance = 0.5 * n / max(n - 1, 1) * float(np.square(np.diff(values)).sum())
    return math.sqrt(variance + 0.5) / n
