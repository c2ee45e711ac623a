"""Spearman's rank correlation, with intervals that are valid for ties, few rows and rows that come in clusters."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import polars as pl

LEVEL = 0.95
FEWEST_PAIRS = 5
FEWEST_CLUSTERS = 3
"""Two clusters make every interval [-1, 1]; `python -m benchmarks coverage` simulates three and more."""
MOST_CLUSTERS = 1_000
"""Each cluster costs a pass over the pairs. More clusters are merged at random, which hardly changes the variance."""
EMPTY = "(empty)"
"""The label of rows that have none."""


@dataclass(frozen=True)
class Spearman:
    """A rank correlation and its 95 % interval. What cannot be computed is None, and `reason` says why."""

    rho: float | None
    n: int
    """Number of pairs that were used."""
    n_left_out: int
    """Number of pairs with a missing value."""
    n_clusters: int | None = None
    """Number of clusters of these pairs; None if the pairs are treated as independent."""
    ci_low: float | None = None
    ci_high: float | None = None
    reason: str = ""


def spearman(x: ArrayLike, y: ArrayLike, clusters: ArrayLike | None = None, unit: str = "cluster") -> Spearman:
    """Correlates the ranks of `x` and `y` (ties share their mean rank).

    The interval is symmetric on Fisher's z scale, so it always contains rho. Its standard error comes from leaving
    out one cluster after another (the jackknife), and is never less than Bonett and Wright's (2000) for independent
    pairs, which protects against small samples whose jackknife happens to show no scatter. Its quantile is Student's t,
    with n - 1 degrees of freedom for single pairs. For clusters, there are half as many degrees of freedom as clusters,
    and clusters of unequal size count for less: with more degrees of freedom, simulated intervals were too narrow
    (`python -m benchmarks coverage`, docs/benchmarks.md).

    Args:
        x: Numbers [pairs]; NaN marks a missing value, and a pair with one is left out and counted. Infinite values
            have ranks like all others.
        y: Numbers [pairs].
        clusters: Labels [pairs] that can be sorted. Layers of one model resemble one another, so an interval that
            treats them as independent is far too narrow for a new model.
        unit: The word for one cluster in `reason`.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    present = ~(np.isnan(x) | np.isnan(y))
    x, y = x[present], y[present]
    n, n_left_out = len(x), int((~present).sum())
    cluster = np.arange(n) if clusters is None else np.unique(np.asarray(clusters)[present], return_inverse=True)[1]
    n_clusters = None if clusters is None else len(np.unique(cluster))
    if n < 3:
        return Spearman(None, n, n_left_out, n_clusters, reason=f"{_number(n, 'pair')}: fewer than 3")
    correlate = _correlator(x, y)
    rho = correlate(np.ones(n, dtype=bool))
    if math.isnan(rho):
        return Spearman(None, n, n_left_out, n_clusters, reason="one side is the same value everywhere")
    interval = _interval(rho, correlate, _merged(cluster), None if clusters is None else unit)
    if isinstance(interval, str):
        return Spearman(rho, n, n_left_out, n_clusters, reason=f"no interval: {interval}")
    return Spearman(rho, n, n_left_out, n_clusters, *interval)


def spearman_table(
    frame: "pl.DataFrame", x: str, y: str, by: Sequence[str], clusters: str | None = "model"
) -> list[dict[str, Any]]:
    """Correlates two columns over all rows (scope 'overall'), then within each group (scope: the group's name).

    Args:
        frame: A table with the columns `x`, `y` and those of `by`.
        x: A column of numbers.
        y: A column of numbers.
        by: Columns that define groups, one after another (not crossed); `by` of a row says which column its group is
            from. Rows without a label are a group of their own, `(empty)`.
        clusters: The column that defines the clusters of `ci_low` and `ci_high`. If the table has no such column, these
            treat the rows as independent, as `ci_low_rows` and `ci_high_rows` always do; `ci_over` says which.

    Returns:
        One dict for each row of the resulting table.
    """
    if clusters is not None and clusters not in frame.columns:
        clusters = None
    rows = [{"scope": "overall", "by": "", **_measured(frame, x, y, clusters)}]
    for column in by:
        labels = np.array([_label(value) for value in frame[column]])
        for label in sorted(set(labels.tolist()), key=_in_order):
            group = frame[np.flatnonzero(labels == label)]
            rows.append({"scope": label, "by": column, **_measured(group, x, y, clusters)})
    return rows


def _measured(frame: "pl.DataFrame", x: str, y: str, clusters: str | None) -> dict[str, Any]:
    of_rows = spearman(frame[x], frame[y])
    if clusters is None:
        found = of_rows
    else:
        found = spearman(frame[x], frame[y], [_label(value) for value in frame[clusters]], unit=clusters)
    return {
        "x": x,
        "y": y,
        "n": found.n,
        "n_left_out": found.n_left_out,
        "rho": found.rho,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "ci_over": clusters or "rows",
        "n_clusters": found.n_clusters,
        "ci_low_rows": of_rows.ci_low,
        "ci_high_rows": of_rows.ci_high,
        "reason": found.reason,
    }


def _label(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return EMPTY if missing else str(value)


def _in_order(label: str) -> tuple[bool, float, str]:
    """Returns a sort key: numbers by size, then words in alphabetical order, then rows without a label."""
    try:
        return False, float(label), label
    except ValueError:
        return True, math.inf if label == EMPTY else 0.0, label


Correlate = Callable[[NDArray[np.bool_]], float]
"""Computes the rank correlation of the pairs that a mask keeps; NaN if one side is constant."""


def _correlator(x: NDArray[np.float64], y: NDArray[np.float64]) -> Correlate:
    levels = [np.unique(side, return_inverse=True)[1] for side in (x, y)]

    def correlate(kept: NDArray[np.bool_]) -> float:
        a, b = (_centered_ranks(side[kept]) for side in levels)
        # Twice a rank is an integer, so the scale of a constant side is exactly zero.
        scale = math.sqrt(float(a @ a) * float(b @ b))
        return float(a @ b) / scale if scale > 0 else math.nan

    return correlate


def _centered_ranks(levels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Returns the mean ranks minus their mean, given the number of each value in sorted order."""
    counts = np.bincount(levels)
    return (np.cumsum(counts) - counts / 2)[levels] - len(levels) / 2


def _merged(cluster: NDArray[np.integer]) -> NDArray[np.integer]:
    count = int(cluster.max()) + 1
    if count <= MOST_CLUSTERS:
        return cluster
    return np.random.default_rng(0).permutation(count)[cluster] % MOST_CLUSTERS


def _interval(
    rho: float, correlate: Correlate, cluster: NDArray[np.integer], unit: str | None
) -> tuple[float, float] | str:
    """Returns the interval, or the reason why there is none. `unit` names a cluster; None if each is a single pair."""
    from scipy.stats import t

    n, count = len(cluster), int(cluster.max()) + 1
    if n < FEWEST_PAIRS:
        return f"{_number(n, 'pair')}, fewer than {FEWEST_PAIRS}"
    if count < FEWEST_CLUSTERS:
        return f"{_number(count, 'value')} of {unit}, fewer than {FEWEST_CLUSTERS}"
    if 1 - abs(rho) < 1e-12:
        return "the order is perfect, so there is no scatter to estimate an error from"
    left_out = np.array([correlate(cluster != one) for one in range(count)])
    if np.isnan(left_out).any():
        return f"without one {unit or 'pair'}, one side is the same value everywhere"
    jackknife = math.sqrt((count - 1) / count * ((left_out - rho) ** 2).sum()) / (1 - rho**2)
    error = max(jackknife, math.sqrt((1 + rho**2 / 2) / (n - 3)))
    freedom = max(_effective(cluster) / 2, 1) if unit else n - 1
    reach = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    return math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _effective(cluster: NDArray[np.integer]) -> float:
    """Returns the effective number of clusters (Kish), which equals their number only if all have the same size."""
    sizes = np.bincount(cluster)
    return float(sizes.sum()) ** 2 / float((sizes**2).sum())
