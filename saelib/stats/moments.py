"""One pass over the tokens: sums about fixed pilots, which can be merged, and the statistics that follow from them.

Every sum is of differences to a pilot, a mean that is estimated from a sample. Without pilots, the variance would be
the small difference of two large numbers: at gamma = 1000 it would lose six digits, and the kurtosis all of them.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.stats.kernels import RAW, add_moments
from saelib.stats.layer_stats import LN_EPS
from saelib.stats.slabs import Slabs, Workers

if TYPE_CHECKING:
    from saelib.stats.on_device import DeviceTokens

# Token norms are counted by the first 9 bits of their mantissa, which gives quantiles to 0.1 %.
_DROPPED_BITS = 14
_NORM_BINS = 2 ** (31 - _DROPPED_BITS)
# Beyond this gamma, the LayerNormed or unit-norm tokens differ by no more than the rounding of float32.
_MAX_GAMMA = 1e7
# These are in scaled units, where the usual value is about 1; float32 reaches from 1e-38 to 1e38.
_SMALLEST_EPSILON, _LARGEST_EPSILON = 1e-37, 1e30
_SHORTEST = 1e-18
"""Shortest length that most tokens may have, as a share of the longest: its square is still a number in float32."""

Kind = Literal[0, 1, 2]
"""The kind of tokens that a sum is over: `kernels.RAW`, `NORMALIZED` or `UNIT`."""


@dataclass(frozen=True)
class Plan:
    """The settings of a pass over the tokens."""

    origin: NDArray[np.float32]
    pilots: NDArray[np.float32]
    """[3, d_in]: estimated means of the values, of the LayerNormed and of the unit-norm tokens."""
    epsilon: float
    """Epsilon of LayerNorm, in scaled units."""
    gram_type: type[np.float32] | type[np.float64]
    whitening: bool


def plan_pass(slabs: Slabs, whitening: bool) -> Plan:
    """Estimates the pilots from the sample of `slabs`, and chooses the other settings of a pass."""
    tokens, d_in = slabs.rows.shape
    values = slabs.sample.astype(np.float64)
    # For values beyond 1e20 it would be 0 in float32, and a token of zeros would be divided by 0.
    epsilon = max(LN_EPS * slabs.scale**2, _SMALLEST_EPSILON)
    _check_range(slabs, epsilon)
    x = values + slabs.origin
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(norms > 0, norms, 1)
    pilots = np.stack([values.mean(0), layer_norm(x, epsilon).mean(0), unit.mean(0)]).astype(np.float32)
    # float32 leaves about 1e-9 of the variance in each empty direction. That matters if many directions are empty, as
    # with fewer tokens than dimensions; the product in float64 then costs less than the eigenvalues do.
    gram_type = np.float64 if tokens <= 4 * d_in else np.float32
    return Plan(slabs.origin, pilots, epsilon, gram_type, whitening)


def _check_range(slabs: Slabs, epsilon: float) -> None:
    """Raises `UserError` for values that float32 would round to zero."""
    if epsilon > _LARGEST_EPSILON:
        raise UserError(
            f"{slabs.rows.name}: the tokens differ by less than 1e-17, too little for float32; "
            f"multiply all activations by one number"
        )
    lengths = np.linalg.norm(slabs.sample.astype(np.float64) + slabs.origin, axis=1)
    lengths = lengths[lengths > 0]
    if len(lengths) and np.median(lengths) < _SHORTEST * lengths.max():
        raise UserError(
            f"{slabs.rows.name}: some tokens are more than {1 / _SHORTEST:.0e} times as long as most, too much for "
            f"float32; leave them out"
        )


def layer_norm(x: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """Applies per-token LayerNorm without affine parameters to `x` [tokens, d_in]."""
    centered = x - x.mean(1, keepdims=True)
    return centered / np.sqrt(np.square(centered).mean(1, keepdims=True) + epsilon)


class Moments:
    """Sufficient statistics of some tokens, in the scaled units of `Slabs`. They are merged by addition."""

    def __init__(self, plan: Plan) -> None:
        """Starts without any tokens."""
        d_in = len(plan.origin)
        self.plan = plan
        self.tokens = 0
        self.sums = np.zeros((6, d_in))
        self.squares = np.zeros(2)
        self.gram = np.zeros((d_in, d_in))
        self.raw_gram = np.zeros((d_in, d_in)) if plan.whitening else np.zeros((0, 0))
        self.norm_counts = np.zeros(_NORM_BINS, np.int64)
        self.max_norm = 0.0
        self.bad_tokens = 0
        self.first_bad = -1

    def add(self, values: NDArray[np.float32], start: int) -> None:
        """Adds the values [n, d_in] of the tokens from `start` on, and overwrites them."""
        plan = self.plan
        # This is float64, because whitening divides by the smallest eigenvalues, which float32 would fill with noise.
        raw = np.subtract(values, plan.pilots[RAW], dtype=np.float64) if plan.whitening else None
        norms = np.empty(len(values), np.float32)
        epsilon = np.float32(plan.epsilon)
        add_moments(values, plan.origin, plan.pilots, epsilon, self.sums, self.squares, norms)
        if not self.add_norms(norms, start):
            return
        self.gram += _gram(values.astype(plan.gram_type, copy=False))
        if raw is not None:
            self.raw_gram += _gram(raw)

    def add_norms(self, norms: NDArray[np.float32], start: int) -> bool:
        """Counts the norms [n] of the tokens from `start` on; returns False if one of them is NaN or infinite."""
        self.tokens += len(norms)
        bad = np.flatnonzero(~np.isfinite(norms))
        if len(bad):
            self._add_bad(len(bad), start + int(bad[0]))
            return False
        self.norm_counts += np.bincount(norms.view(np.uint32) >> _DROPPED_BITS, minlength=_NORM_BINS)
        self.max_norm = max(self.max_norm, float(norms.max()))
        return True

    def merge(self, other: "Moments") -> None:
        """Adds the tokens of another state with the same plan."""
        self.tokens += other.tokens
        self.sums += other.sums
        self.squares += other.squares
        self.gram += other.gram
        self.raw_gram += other.raw_gram
        self.norm_counts += other.norm_counts
        self.max_norm = max(self.max_norm, other.max_norm)
        if other.bad_tokens:
            self._add_bad(other.bad_tokens, other.first_bad)

    def _add_bad(self, count: int, first: int) -> None:
        self.first_bad = first if self.bad_tokens == 0 else min(first, self.first_bad)
        self.bad_tokens += count

    def mean(self, of: Kind) -> NDArray[np.float64]:
        """Returns mu [d_in] of the raw, LayerNormed or unit-norm tokens."""
        base = self.plan.origin if of == RAW else 0
        return base + self.plan.pilots[of].astype(np.float64) + self.sums[of] / self.tokens

    def variance(self) -> NDArray[np.float64]:
        """Returns the population variance [d_in] of the raw tokens, exactly 0 for constant dimensions."""
        shift = self.sums[RAW] / self.tokens
        return np.maximum(self.sums[3] / self.tokens - shift**2, 0)

    def rounding(self) -> NDArray[np.float64]:
        """Returns the largest variance [d_in] that errors of rounding to float16 can have, scaled or not."""
        values = self.plan.pilots[RAW].astype(np.float64) + self.sums[RAW] / self.tokens
        return (self.variance() + values**2) * 2.0**-20 / 12

    def gamma(self, of: Kind) -> float:
        """Returns ||mu|| / ||sigma||; infinite if the mapped tokens are all the same, as far as float32 can tell."""
        length = float(np.linalg.norm(self.mean(of)))
        if of == RAW:
            smallest, total_variance = 0.0, float(self.variance().sum())
        else:
            shift = self.sums[of] / self.tokens
            smallest = (length / _MAX_GAMMA) ** 2
            total_variance = float(self.squares[of - 1] / self.tokens - shift @ shift)
        return length / math.sqrt(total_variance) if total_variance > smallest else math.inf

    def excess_kurtosis(self) -> NDArray[np.float64]:
        """Returns the fourth central moment over the squared variance, minus 3, [d_in]; NaN for constant dimensions."""
        shift, second, third, fourth = self.sums[[RAW, 3, 4, 5]] / self.tokens
        variance = self.variance()
        # By Jensen's inequality it is at least -2; a smaller result means that float32 lost the fourth powers.
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            central = fourth - 4 * shift * third + 6 * shift**2 * second - 3 * shift**4
            kurtosis = central / variance**2 - 3
        return np.where((variance > 0) & (kurtosis > -2.01) & np.isfinite(kurtosis), kurtosis, np.nan)

    def covariance(self, of: Kind) -> NDArray[np.float64]:
        """Returns the covariance [d_in, d_in] of the raw (needs `whitening`) or the LayerNormed tokens."""
        shift = self.sums[of] / self.tokens
        return (self.raw_gram if of == RAW else self.gram) / self.tokens - np.outer(shift, shift)

    @property
    def zero_tokens(self) -> int:
        """Number of tokens that are all zeros."""
        return int(self.norm_counts[0])

    def norm_quantile(self, fraction: float) -> float:
        """Returns a quantile of the norms of the tokens that are not all zeros, to 0.1 %."""
        counts = self.norm_counts.copy()
        counts[0] = 0
        place = np.searchsorted(counts.cumsum(), fraction * (counts.sum() - 1), side="right")
        middle = np.uint32((int(place) << _DROPPED_BITS) + (1 << (_DROPPED_BITS - 1)))
        return min(float(middle.view(np.float32)), self.max_norm)

    def share_longer(self, norm: float) -> float:
        """Returns the share of all tokens whose norm is larger than `norm`, which is rounded by at most 0.1 %."""
        place = int(np.float32(norm).view(np.uint32)) >> _DROPPED_BITS
        return float(self.norm_counts[place + 1 :].sum()) / self.tokens


def collect_moments(
    slabs: Slabs, workers: Workers, whitening: bool, on_device: "DeviceTokens | None" = None
) -> Moments:
    """Collects the moments of all tokens in one pass, by the workers or on a device.

    Raises:
        UserError: if a token has NaN or infinity in it.
    """
    plan = plan_pass(slabs, whitening)
    moments = on_device.moments(plan) if on_device else slabs.fold(partial(Moments, plan), workers)
    if moments.bad_tokens:
        what, advice = _what_is_bad(slabs, moments.first_bad)
        raise UserError(
            f"{slabs.rows.name}: {what} in {moments.bad_tokens} of {moments.tokens} tokens, the first in row "
            f"{moments.first_bad} (counted from 0); {advice}"
        )
    return moments


def _what_is_bad(slabs: Slabs, row: int) -> tuple[str, str]:
    """Says what is wrong with a token, and what to do about it."""
    values = slabs.rows.block(row, row + 1)
    if not np.isfinite(values).all():
        return "NaN or infinite values", "find what made them, or leave such tokens out: activations must be finite"
    largest = float(np.abs(values).max())
    return (
        f"values as large as {largest:.2g}, whose squares float32 cannot hold,",
        "leave such tokens out, or divide all activations by one number if all are as large",
    )


def _gram(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return values.T @ values
