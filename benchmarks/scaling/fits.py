"""Fits growth to measurements: a power law, a straight line, and coefficients of known terms."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import t

from benchmarks.scaling.sizes import Point, Size


@dataclass(frozen=True)
class Power:
    """y = c n^exponent."""

    exponent: float
    low: float
    """Ends of the 95 % interval (Student's t, residuals of the logarithms)."""
    high: float


@dataclass(frozen=True)
class Line:
    """y = a + b n, with equal weights for relative errors."""

    a: float
    b: float
    worst: float
    """Largest relative distance of a measurement from the line."""


def fit_power(n: Sequence[float], y: Sequence[float]) -> Power | None:
    """Fits a power law by least squares on logarithms; None for fewer than three points or a y that is not above 0."""
    if len(n) < 3 or min(y) <= 0:
        return None
    x, z = np.log(n) - np.log(n).mean(), np.log(y) - np.log(y).mean()
    slope = float(x @ z / (x @ x))
    residual = float(np.square(z - slope * x).sum()) / (len(n) - 2)
    half = float(t.ppf(0.975, len(n) - 2)) * math.sqrt(residual / float(x @ x))
    return Power(slope, slope - half, slope + half)


def fit_line(n: Sequence[float], y: Sequence[float]) -> Line | None:
    """Fits a line; None if some y is not above 0."""
    if min(y) <= 0:
        return None
    weights = 1 / np.asarray(y)
    b, a = np.polyfit(n, y, 1, w=weights)
    return Line(float(a), float(b), float(np.abs((a + b * np.asarray(n)) * weights - 1).max()))


Terms = dict[str, Callable[[Size], float]]
"""Name -> how that part of the cost grows."""


@dataclass(frozen=True)
class Model:
    """A sum of terms with fitted coefficients, none below 0."""

    terms: Terms
    coefficients: dict[str, float]
    worst: float
    """Largest relative error on the fitted measurements."""

    def __call__(self, size: Size) -> float:
        """Returns the cost at a size, usually beyond those measured."""
        return sum(self.coefficients[name] * term(size) for name, term in self.terms.items())


def fit_model(terms: Terms, points: Sequence[Point], costs: Sequence[float]) -> Model:
    """Fits the coefficients by non-negative least squares of relative errors; `costs` are those of the points."""
    matrix = np.array([[term(point.size) for term in terms.values()] for point in points]) / np.array(costs)[:, None]
    scale = matrix.max(axis=0)
    found, _ = nnls(matrix / scale, np.ones(len(costs)))
    return Model(terms, dict(zip(terms, found / scale, strict=True)), float(np.abs(matrix / scale @ found - 1).max()))
