"""The law that predicts death from directions alone: a latent lives if some token lies in its cap.

The rows of an untrained encoder are uniform on the unit sphere of R^d. Seen from a token, the share of rows whose
cosine with it exceeds c is the share of the sphere in a cap (`tail_mass`), the same for every token. So TopK selects a
row w of n on a token exactly if fewer than k of the other n - 1 rows lie in the cap that w bounds, which has the
probability P(Bin(n - 1, tail_mass(cos)) < k): near 1 above the cosine that bounds a cap of share k / n, near 0 below.

Over many tokens a row is dead if all of them pass it over. The counts of other rows in two caps are correlated by
as much as the caps overlap (`cap_correlation`). `all_pass_over` treats that with one common Gaussian factor: with
correlation 0 the tokens decide independently, with 1 they share one bar.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, log_ndtr, ndtri

Floats = NDArray[np.float64]

_FACTOR, _FACTOR_WEIGHTS = np.polynomial.hermite_e.hermegauss(11)
_FACTOR_WEIGHTS = _FACTOR_WEIGHTS / _FACTOR_WEIGHTS.sum()
_ANGLES, _ANGLE_WEIGHTS = np.polynomial.legendre.leggauss(24)
_FARTHEST = 38.0
"""Standard deviations beyond which float64 holds no probability."""


def tail_mass(cosine: NDArray[np.floating], d: int) -> Floats:
    """Share of the unit sphere of R^d (d >= 2) whose cosine with a given direction exceeds `cosine`, of any shape."""
    c = np.clip(cosine.astype(np.float64), -1, 1)
    beyond = betainc((d - 1) / 2, 0.5, 1 - c**2) / 2
    return np.where(c >= 0, beyond, 1 - beyond)


def cap_cosine(share: float, d: int) -> float:
    """The cosine that bounds a cap of this share of the sphere; 0, which is ReLU's bar, for half of it or more."""
    if share >= 0.5:
        return 0.0
    return float(np.sqrt(1 - betaincinv((d - 1) / 2, 0.5, 2 * share)))


def passed_over(mass: Floats, d_sae: int, k: int) -> Floats:
    """P(Bin(d_sae - 1, mass) >= k): that a token prefers k others to a row whose cap holds `mass` of the sphere."""
    return np.zeros_like(mass) if k >= d_sae else betainc(k, d_sae - k, mass)


def cap_correlation(cosines: Floats, share: float) -> Floats:
    """Correlation of the numbers of rows in two caps of this share, whose centers have these cosines.

    (P(both) - share^2) / (share - share^2), with P(both) of Gaussian projections, which projections in many dimensions
    are.
    """
    bar = ndtri(share)
    angle = np.arcsin(np.clip(cosines, -1, 1))[..., None]
    # d/d(angle) of the bivariate normal probability, from independence at angle 0 (Sheppard)
    density = np.exp(-(bar**2) / (1 + np.sin(angle * (_ANGLES + 1) / 2)))
    overlap = (density * _ANGLE_WEIGHTS).sum(-1) * angle[..., 0] / (4 * np.pi)
    return overlap / (share * (1 - share))


def log_passed_over(mass: Floats, d_sae: int, k: int, correlation: float) -> Floats:
    """The logarithm of `passed_over` given each value of the common factor: [...] -> [..., factors]."""
    quantile = np.clip(ndtri(passed_over(mass, d_sae, k)), -_FARTHEST, _FARTHEST)[..., None]
    return log_ndtr((quantile - np.sqrt(correlation) * _FACTOR) / np.sqrt(1 - correlation))


def over_the_factor(probability: Floats) -> Floats:
    """Mean over the common factor: [..., factors] -> [...]."""
    return probability @ _FACTOR_WEIGHTS


def batch_threshold(lengths: NDArray[np.floating], d: int, d_sae: int, k: int) -> float:
    """BatchTopK's bar: the pre-activation that k rows a token exceed on average, over tokens of these lengths.

    It is 0 if no more than k pre-activations a token are positive anyway. Long tokens take places from short ones.
    """
    places = len(lengths) * k / d_sae
    lengths = np.sort(lengths[lengths > 0].astype(np.float64))
    if places >= len(lengths) / 2:
        return 0.0
    from scipy.optimize import root_scalar  # imported here, because it takes a while and few predictions need it

    def too_many(bar: float) -> float:
        return float(tail_mass(bar / lengths[np.searchsorted(lengths, bar) :], d).sum()) - places

    tolerance = 1e-9 * float(np.median(lengths))
    found = root_scalar(too_many, bracket=(0.0, float(lengths[-1])), method="brentq", xtol=tolerance, rtol=1e-9)
    return float(found.root)
