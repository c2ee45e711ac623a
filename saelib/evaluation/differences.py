"""Differences between two kinds of SAE, with intervals over items and seeds."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelib.errors import UserError


@dataclass(frozen=True)
class Difference:
    """Mean score of a first kind of SAE minus that of a second one."""

    mean: float
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    smallest_reliable: float
    """Half the width of the interval: a smaller difference could be chance."""
    items: int
    """Items (concepts, examples, latents) that both were scored on."""
    seeds: tuple[int, int]
    """Seeds of each kind."""

    @property
    def reliable(self) -> bool:
        """True if the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def score_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """Compares scores of two kinds of SAE on the same items, with an interval over items and seeds.

    The interval is mean +- t * se, with se^2 = (variance over items of the paired differences) / items + (variance over
    seeds of the first kind's mean score) / seeds + the same of the second kind. t is the quantile of Student's
    distribution at Satterthwaite's degrees of freedom. With a single seed, the interval is over items alone, and says
    nothing about other seeds; with a single item (a score of the whole SAE), it is over seeds alone.

    Args:
        first: Scores [items] or [seeds, items], such as the F1 of each concept.
        second: Scores of the other kind on the same items; the number of seeds may differ.
        level: Coverage of the interval.

    Returns:
        The difference. Items for which a score is NaN are left out.

    Raises:
        UserError: If the items differ in number, or if none is left, or only one where a kind has a single seed.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> concepts = rng.random(200)
        >>> found = evaluation.score_difference(concepts + 0.1, concepts + 0.01 * rng.normal(size=(3, 200)))
        >>> round(found.mean, 2), found.reliable, found.smallest_reliable < 0.01
        (0.1, True, True)
    """
    from scipy.stats import t as student

    one, other = (np.atleast_2d(np.asarray(scores, np.float64)) for scores in (first, second))
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise UserError(f"scores: {list(np.shape(first))} and {list(np.shape(second))}; should be [seeds, items] twice")
    if not 0 < level < 1:
        raise UserError(f"level is {level}; should be between 0 and 1")
    kept = np.isfinite(one).all(axis=0) & np.isfinite(other).all(axis=0)
    one, other = one[:, kept], other[:, kept]
    items = int(kept.sum())
    seeds = min(len(one), len(other))
    if items < 1 + (seeds < 2):
        raise UserError(f"scores: {items} items have a score of every SAE; should be two or more, or one and two seeds")
    paired = one.mean(axis=0) - other.mean(axis=0)
    parts = [_variance_of_mean(paired)] if items > 1 else []
    parts += [_variance_of_mean(kind.mean(axis=1)) for kind in (one, other) if len(kind) > 1]
    total = sum(variance for variance, _ in parts)
    half = 0.0
    if total > 0:
        freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
        half = float(student.ppf((1 + level) / 2, freedom)) * math.sqrt(total)
    mean = float(paired.mean())
    return Difference(mean, mean - half, mean + half, half, items, (len(one), len(other)))


def _variance_of_mean(values: NDArray[np.float64]) -> tuple[float, int]:
    """Gives the squared standard error of the mean of values, and its degrees of freedom."""
    return float(values.var(ddof=1)) / len(values), len(values) - 1
