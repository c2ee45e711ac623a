"""Growth from measurements: a power, a straight line, and coefficients of known terms."""

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
    """y = a + b n, relative errors weighed equally."""

    a: float
    b: float
    worst: float
    """Largest relative distance of a measurement from the line."""


def fit_power(n: Sequence[float], y: Sequence[float]) -> Power | None:
    """Least squares on logarithms; None where y is not above 0, or three points do not leave a residual."""
    if len(n) < 3 or min(y) <= 0:
        return None
    x, z = np.log(n) - np.log(n).mean(), np.log(y) - np.log(y).mean()
    slope = float(x @ z / (x @ x))
    residual = float(np.square(z - slope * x).sum()) / (len(n) - 2)
    half = float(t.ppf(0.975, len(n) - 2)) * math.sqrt(residual / float(x @ x))
    return Power(slope, slope - half, slope + half)


def fit_line(n: Sequence[float], y: Sequence[float]) -> Line | None:
    """None where y is not above 0."""
    if min(y) <= 0:
        return None
    weights = 1 / np.asarray(y)
    b, a = np.polyfit(n, y, 1, w=weights)
    return Line(float(a), float(b), float(np.abs((a + b * np.asarray(n)) * weights - 1).max()))


Terms = dict[str, Callable[[Size], float]]
"""Name -> how a part of the cost grows."""


@dataclass(frozen=True)
class Model:
    """A sum of terms with measured coefficients, none below 0."""

    terms: Terms
    coefficients: dict[str, float]
    worst: float
    """Largest relative error on the measurements that it was fitted to."""

    def __call__(self, size: Size) -> float:
        """The cost at a size, usually beyond those measured."""
        return sum(self.coefficients[name] * term(size) for name, term in self.terms.items())


def fit_model(terms: Terms, points: Sequence[Point], costs: Sequence[float]) -> Model:
    """Non-negative least squares of relative errors; `costs`: of each point."""
    matrix = np.array([[term(point.size) for term in terms.values()] for point in points]) / np.array(costs)[:, None]
    scale = matrix.max(axis=0)
    found, _ = nnls(matrix / scale, np.ones(len(costs)))
    return Model(terms, dict(zip(terms, found / scale, strict=True)), float(np.abs(matrix / scale @ found - 1).max()))
