"""Spearman's rank correlation with bootstrap intervals, ties and missing values included."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import polars as pl

LEVEL = 0.95


@dataclass(frozen=True)
class Spearman:
    """A rank correlation and its 95 % percentile interval; `None` where `reason` says it cannot be had."""

    rho: float | None
    n: int
    """Pairs behind it."""
    n_left_out: int
    """Pairs with a missing value."""
    ci_low: float | None = None
    ci_high: float | None = None
    reason: str = ""


def spearman(x: ArrayLike, y: ArrayLike, bootstrap: int, seed: int, clusters: ArrayLike | None = None) -> Spearman:
    """Correlate the ranks of `x` and `y` (ties share their mean rank).

    Args:
        x: numbers [pairs]; NaN marks a missing value, and a pair with one is left out and counted.
        y: numbers [pairs].
        bootstrap: resamples behind the interval.
        seed: of the resampling.
        clusters: labels [pairs]. With them whole clusters are drawn instead of pairs: layers of one model
            resemble one another, so drawing single layers makes an interval too narrow for a new model.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    present = ~(np.isnan(x) | np.isnan(y))
    x, y = x[present], y[present]
    n, n_left_out = len(x), int((~present).sum())
    if n < 3:
        return Spearman(None, n, n_left_out, reason=f"{n} pairs: fewer than 3")
    if x.min() == x.max() or y.min() == y.max():
        return Spearman(None, n, n_left_out, reason="one side is the same value everywhere")
    rho = float(_weighted_spearman(x, y, np.ones((1, n)))[0])
    names, of_pair = np.unique(np.arange(n) if clusters is None else np.asarray(clusters)[present], return_inverse=True)
    if len(names) < 3:
        return Spearman(rho, n, n_left_out, reason=f"no interval: {len(names)} clusters, fewer than 3")
    share = np.full(len(names), 1 / len(names))
    counts = np.random.default_rng(seed).multinomial(len(names), share, size=bootstrap)
    drawn = _weighted_spearman(x, y, counts[:, of_pair].astype(np.float64))
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        return Spearman(rho, n, n_left_out, reason="no interval: one side is constant in every resample")
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Spearman(rho, n, n_left_out, float(low), float(high))


def spearman_table(
    frame: "pl.DataFrame", x: str, y: str, by: list[str], bootstrap: int, seed: int, clusters: str = "model"
) -> list[dict[str, Any]]:
    """Correlate two columns over all rows (scope 'overall'), then within each group (scope: the group's name).

    Args:
        frame: a table with the columns `x`, `y` and those of `by`.
        x: a column.
        y: a column.
        by: columns that make groups, one after another (not crossed); `by` of a row says which made it.
        bootstrap: resamples behind each interval.
        seed: of the resampling.
        clusters: the column whose values are drawn whole for `ci_low_models` and `ci_high_models`, which
            only the overall row has, and only where the table has that column.
    """
    of_models = spearman(frame[x], frame[y], bootstrap, seed, frame[clusters]) if clusters in frame.columns else None
    drawn_whole = {
        "ci_low_models": of_models.ci_low if of_models else None,
        "ci_high_models": of_models.ci_high if of_models else None,
    }
    rows = [{"scope": "overall", "by": "", **_measured(frame, x, y, bootstrap, seed), **drawn_whole}]
    for column in by:
        for value in frame[column].unique().sort():
            group = _measured(frame.filter(frame[column] == value), x, y, bootstrap, seed)
            rows.append({"scope": str(value), "by": column, **group} | dict.fromkeys(drawn_whole))
    return rows


def _measured(frame: "pl.DataFrame", x: str, y: str, bootstrap: int, seed: int) -> dict[str, Any]:
    result = spearman(frame[x], frame[y], bootstrap, seed)
    return {
        "x": x,
        "y": y,
        "n": result.n,
        "n_left_out": result.n_left_out,
        "rho": result.rho,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
        "reason": result.reason,
    }


def _weighted_spearman(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman's rho when pair i occurs `weights[b, i]` times: [resamples]. NaN where a side is constant.

    Counting repeats in place of drawing rows needs one sort for all resamples together.
    """
    total = weights.sum(axis=1)
    a, b = _weighted_ranks(x, weights), _weighted_ranks(y, weights)
    a -= (np.einsum("bi,bi->b", weights, a) / total)[:, None]
    b -= (np.einsum("bi,bi->b", weights, b) / total)[:, None]
    covariance = np.einsum("bi,bi,bi->b", weights, a, b)
    scale = np.sqrt(np.einsum("bi,bi,bi->b", weights, a, a) * np.einsum("bi,bi,bi->b", weights, b, b))
    # Ranks are halves of integers, so a constant side has a scale of exactly zero.
    return np.divide(covariance, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def _weighted_ranks(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean rank of each value where value i occurs `weights[b, i]` times: [resamples, pairs]."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(sizes, axis=1) - sizes / 2 + 0.5
    return ranks[:, group]
