"""Total death from a few statistics of a layer, if there are no tokens at hand to probe.

The forms of `closed_forms` know gamma alone: every latent's signal has the same variance, and the largest of it among
N Gaussian tokens decides. Here a latent's signal has its own variance, which scatters the more the fewer directions
carry it; tails may be heavier than a Gaussian's; and all tokens count, not the largest typical signal alone.

Assumptions, for tokens of unit length (their length does not matter to TopK): a random row sees a shift g xi, with xi
standard normal and g = gamma_unit, plus a signal of variance G, which over rows is Gamma distributed with mean 1 and
variance 2 / PR (PR the participation ratio of their covariance; exact in its first two moments). Given both, the tokens
are independent. The bar is that of the cap law, the same for all tokens. Correlated tokens break independence: death
of clustered tokens is underestimated. With tokens at hand, `saelib.init_death.probes` predicts far better.
"""

import math

import numpy as np
from scipy.special import gammaincinv, log_ndtr, ndtr, ndtri, roots_genlaguerre

from saelib.errors import UserError
from saelib.theory.cap_law import cap_cosine

# Equally likely: a Gaussian quadrature of as many points errs by points where a large shift alone decides.
_SHIFTS = ndtri((np.arange(200) + 0.5) / 200)
_SHARES = (np.arange(24) + 0.5) / 24
_GAUSSIAN = 0.04
"""Excess kurtosis below which the signal is taken to be Gaussian."""

SIGNAL_SCALE, TOKENS_PER_RANK = 1.2, 30.0
"""Fitted to the paper's 454 released rows; see `dead_total_from_ranks`."""


def dead_total_from_spectrum(
    gamma_unit: float, participation_ratio: float, kurtosis: float, d_in: int, d_sae: int, k: int, tokens: float
) -> float:
    """Predicts total death of a TopK dictionary; no parameter is fitted.

    E over shifts and signal variances of P(one token is below the bar)^tokens.

    Args:
        gamma_unit: ||mu|| / ||sigma|| of the unit-norm tokens.
        participation_ratio: (tr C)^2 / tr C^2 of their covariance C; infinity: all latents have the same signal.
        kurtosis: Excess kurtosis of the unit-norm tokens along random directions, a mean. Above 0 the signal is a
            mixture of Gaussians whose variance is Gamma distributed over tokens; 0 or less: it is Gaussian.
        d_in: Dimensions, 2 or more.
        d_sae: Latents.
        k: Latents selected on a token.
        tokens: Number of tokens that death is counted over, 1 or more.
    """
    _check(gamma_unit, participation_ratio, d_in, d_sae, k, tokens)
    bar = cap_cosine(k / d_sae, d_in) * math.sqrt(d_in) * math.hypot(1, gamma_unit)
    return _dead(bar, gamma_unit, participation_ratio, kurtosis, tokens)


def dead_relu_from_spectrum(gamma_unit: float, participation_ratio: float, kurtosis: float, tokens: float) -> float:
    """Predicts the fraction of latents that are positive on no token, for which the bar is zero.

    The arguments are those of `dead_total_from_spectrum`.
    """
    _check(gamma_unit, participation_ratio, 2, 1, 1, tokens)
    return _dead(0.0, gamma_unit, participation_ratio, kurtosis, tokens)


def _dead(bar: float, gamma_unit: float, participation_ratio: float, kurtosis: float, tokens: float) -> float:
    below = (bar - gamma_unit * _SHIFTS)[:, None] / np.sqrt(_signal_variances(participation_ratio))
    return float(np.exp(tokens * _log_probability_below(below, kurtosis)).mean())


def dead_total_from_ranks(
    gamma: float,
    gamma_raw: float,
    effective_rank: float,
    d_in: int,
    d_sae: int,
    k: int,
    tokens: float,
    *,
    signal_scale: float = SIGNAL_SCALE,
    tokens_per_rank: float = TOKENS_PER_RANK,
) -> float:
    """Predicts total death from the columns of the paper's tables; two parameters are fitted to these tables.

    The larger gamma stands for `gamma_unit`, half the effective rank for the participation ratio. Heavy tails stretch
    the signal by `signal_scale`, and of correlated tokens min(tokens, tokens_per_rank x effective_rank) count. With 1
    and infinity no parameter is fitted, but the half was chosen on the same rows.

    Args:
        gamma: Gamma after LayerNorm.
        gamma_raw: Gamma of the raw activations.
        effective_rank: The absolute one, as `LayerStats.effective_rank`.
        d_in: Dimensions, 2 or more.
        d_sae: Latents.
        k: Latents selected on a token.
        tokens: Number of tokens that death is counted over, 1 or more.
        signal_scale: Factor on the standard deviation of the signal.
        tokens_per_rank: Independent tokens of one effective dimension.
    """
    shift, counted = max(gamma, gamma_raw), max(1.0, min(tokens, tokens_per_rank * effective_rank))
    _check(shift, effective_rank / 2, d_in, d_sae, k, counted)
    bar = cap_cosine(k / d_sae, d_in) * math.sqrt(d_in) * math.hypot(1, shift)
    variances = signal_scale**2 * _signal_variances(effective_rank / 2)
    dead = np.exp(counted * log_ndtr((bar - shift * _SHIFTS)[:, None] / np.sqrt(variances)))
    return float(dead.mean())


def _signal_variances(participation_ratio: float) -> np.ndarray:
    """[shares]: equally likely variances of a latent's signal, with mean about 1."""
    if math.isinf(participation_ratio):
        return np.ones(1)
    return np.maximum(gammaincinv(participation_ratio / 2, _SHARES) * 2 / participation_ratio, 1e-12)


def _log_probability_below(bar: np.ndarray, kurtosis: float) -> np.ndarray:
    """Returns log P(signal < bar), of any shape, for a signal of variance 1 and this excess kurtosis."""
    if kurtosis < _GAUSSIAN:
        return log_ndtr(bar)
    shape = 3 / kurtosis
    scales, weights = roots_genlaguerre(40, shape - 1)
    above = ndtr(-bar[..., None] / np.sqrt(scales / shape)) @ (weights / weights.sum())
    return np.log1p(-np.minimum(above, 1 - 1e-12))


def _check(gamma: float, rank: float, d_in: int, d_sae: int, k: int, tokens: float) -> None:
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise UserError(f"gamma = {gamma}: must be a finite number, 0 or more")
    if not rank > 0:
        raise UserError(f"participation ratio = {rank}: must be more than 0")
    if d_in < 2 or not 1 <= k <= d_sae or not tokens >= 1:
        raise UserError(
            f"d_in = {d_in}, d_sae = {d_sae}, k = {k}, tokens = {tokens}: d_in must be 2 or more, k lie between 1 and "
            f"d_sae, and tokens be 1 or more"
        )
