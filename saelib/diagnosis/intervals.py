"""Intervals for gamma, effective rank and kurtosis: how far they would move with other tokens of the same kind.

Rows that follow one another come from one text or one image and resemble each other, so rows are not taken as
independent: they are cut into `GROUPS` runs, and each statistic's standard error is the jackknife's over runs.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from threadpoolctl import threadpool_limits

from saelib.activations.rows import Rows, read_float32
from saelib.preprocessing.transform import layer_norm
from saelib.stats.layer_stats import LayerStats

GROUPS = 32
ROWS_PER_GROUP = 8
"""Rows in a run below which there is no interval."""
AT_A_TIME = 4096

T = TypeVar("T")
Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """95 % intervals (low, high); None if the statistic is not defined or there are too few rows."""

    gamma: Interval | None = None
    gamma_raw: Interval | None = None
    gamma_unit: Interval | None = None
    effective_rank: Interval | None = None
    excess_kurtosis: Interval | None = None


@dataclass(frozen=True)
class Spread:
    """Intervals, and the mean of the tokens at unit length, which decides who dies."""

    intervals: Intervals
    unit_mean: NDArray[np.float64]
    """[d_in]"""
    norms: NDArray[np.float32]
    """[tokens], the length of each row."""


def measure_spread(rows: Rows, stats: LayerStats, threads: int = 1) -> Spread:
    """Reads the rows twice: once for the moments of each run, once for each row's influence on the effective rank.

    Args:
        rows: What `stats` was computed from.
        stats: Its statistics, with arrays.
        threads: Blocks that are worked on at a time; they change no bit of the result.
    """
    with threadpool_limits(1, user_api="blas"):  # the blocks share the CPUs, and more threads would change last bits
        return _measure_spread(rows, stats, threads)


def _measure_spread(rows: Rows, stats: LayerStats, threads: int) -> Spread:
    tokens, d_in = rows.shape
    moments = _Moments(tokens, d_in, stats)
    for start, block, found in _over_blocks(rows, moments.of_block, threads):
        moments.add(start, len(block), found)
    if tokens < GROUPS * ROWS_PER_GROUP:
        return Spread(Intervals(), moments.unit.total().mean, moments.norms)
    rank = None
    if stats.effective_rank is not None:
        rank = _rank_interval(rows, moments, stats.effective_rank, threads)
    intervals = Intervals(
        gamma=_gamma_interval(moments.normalized, stats.gamma),
        gamma_raw=_gamma_interval(moments.raw, stats.gamma_raw),
        gamma_unit=_gamma_interval(moments.unit, stats.gamma_unit),
        effective_rank=rank,
        excess_kurtosis=_kurtosis_interval(moments, stats.excess_kurtosis),
    )
    return Spread(intervals, moments.unit.total().mean, moments.norms)


@dataclass
class _Sum:
    """Count, mean [d_in] and sum of squared deviations [d_in], which can be joined."""

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    def join(self, other: "_Sum") -> "_Sum":
        count = self.count + other.count
        step = other.mean - self.mean
        share = other.count / count if count else 0.0
        squares = self.squares + other.squares + step**2 * self.count * share
        return _Sum(count, self.mean + step * share, squares)

    def gamma(self) -> float:
        """||mean|| / ||std||"""
        variance = self.squares.sum() / self.count
        return float(np.linalg.norm(self.mean) / math.sqrt(variance)) if variance > 0 else math.inf


class _Runs:
    """One `_Sum` for each run of rows."""

    def __init__(self, d_in: int) -> None:
        self.runs = [_Sum(0, np.zeros(d_in), np.zeros(d_in)) for _ in range(GROUPS)]

    def total(self) -> _Sum:
        return _join(self.runs)

    def without_each(self) -> list[_Sum]:
        """All runs but one, for each run."""
        return [_join(self.runs[:left_out] + self.runs[left_out + 1 :]) for left_out in range(GROUPS)]


def _join(sums: list[_Sum]) -> _Sum:
    joined = sums[0]
    for one in sums[1:]:
        joined = joined.join(one)
    return joined


class _Moments:
    """Moments that the first pass collects for each run of rows."""

    def __init__(self, tokens: int, d_in: int, stats: LayerStats) -> None:
        self.tokens = tokens
        self.raw, self.normalized, self.unit = _Runs(d_in), _Runs(d_in), _Runs(d_in)
        self.powers = np.zeros((GROUPS, 4, d_in))
        """Sums of the powers 1 to 4 of (x - mean) / std."""
        self.rows_in = np.zeros(GROUPS)
        self.gram = np.zeros((d_in, d_in))
        """Gram matrix of the LayerNormed rows about `ln_mean`."""
        self.norms = np.zeros(tokens, dtype=np.float32)
        self.mean, self.ln_mean = stats.arrays["mean"], stats.arrays["ln_mean"]
        std = stats.arrays["std"]
        self.inverse = np.divide(1, std, out=np.zeros_like(std), where=std > 0)
        self.varies = np.isfinite(stats.arrays["excess_kurtosis"])

    def of_block(self, block: NDArray[np.float32]) -> tuple[list[_Sum], NDArray[np.float64], NDArray, NDArray]:
        normalized = layer_norm(block).astype(np.float32)
        norms = np.sqrt(np.einsum("td,td->t", block, block, dtype=np.float64))
        unit = block / np.where(norms > 0, norms, 1)[:, None].astype(np.float32)
        scaled = (block - self.mean) * self.inverse
        squares = scaled**2
        powers = np.stack(
            [scaled.sum(0), squares.sum(0), (squares * scaled).sum(0), np.einsum("td,td->d", squares, squares)]
        )
        centered = normalized - self.ln_mean.astype(np.float32)
        return [_sum(block), _sum(normalized), _sum(unit)], powers, norms, centered.T @ centered

    def add(self, start: int, count: int, found: tuple[list[_Sum], NDArray, NDArray, NDArray]) -> None:
        sums, powers, norms, gram = found
        run = _run_of(start, self.tokens)
        for runs, one in zip((self.raw, self.normalized, self.unit), sums, strict=True):
            runs.runs[run] = runs.runs[run].join(one)
        self.powers[run] += powers
        self.rows_in[run] += count
        self.gram += gram
        self.norms[start : start + count] = norms


def _sum(x: NDArray[np.floating]) -> _Sum:
    mean = x.mean(axis=0, dtype=np.float64)
    deviations = x - mean.astype(x.dtype)
    squares = np.einsum("td,td->d", deviations, deviations, dtype=np.float64)
    # What rounding the mean to float32 left over.
    return _Sum(len(x), mean, squares - len(x) * np.square(mean - mean.astype(x.dtype)))


def _run_of(row: int, tokens: int) -> int:
    return row * GROUPS // tokens


def _over_blocks(
    rows: Rows, work: Callable[[NDArray[np.float32]], T], threads: int
) -> Iterator[tuple[int, NDArray[np.float32], T]]:
    """Gives (first row, rows, result of `work`) block after block, in order; no block spans two runs."""
    tokens = rows.shape[0]
    edges = sorted({-(-run * tokens // GROUPS) for run in range(GROUPS)} | set(range(0, tokens, AT_A_TIME)) | {tokens})
    spans = list(pairwise(edges))

    def read_and_work(span: tuple[int, int]) -> tuple[int, NDArray[np.float32], T]:
        block = read_float32(rows, *span)
        return span[0], block, work(block)

    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(spans), 2 * threads):  # no more in memory than are worked on
            yield from pool.map(read_and_work, spans[first : first + 2 * threads])


def _jackknife(estimate: float, without_each: NDArray[np.float64]) -> Interval | None:
    """The interval of a statistic from its values without each run."""
    if not np.isfinite(without_each).all():
        return None
    spread = np.sum((without_each - without_each.mean()) ** 2)
    half = student_t.ppf(0.975, GROUPS - 1) * math.sqrt((GROUPS - 1) / GROUPS * spread)
    return (float(estimate - half), float(estimate + half))


def _exp(interval: Interval | None) -> Interval | None:
    return interval and (math.exp(interval[0]), math.exp(interval[1]))


def _gamma_interval(runs: _Runs, gamma: float | None) -> Interval | None:
    """Computes the interval on the logarithm, because gamma is a ratio of lengths."""
    if not gamma:
        return None
    without = np.array([one.gamma() for one in runs.without_each()])
    return _exp(_jackknife(math.log(gamma), np.log(without))) if (without > 0).all() else None


def _kurtosis_interval(moments: _Moments, kurtosis: float | None) -> Interval | None:
    if kurtosis is None:
        return None
    powers = moments.powers.sum(0) - moments.powers
    count = (moments.rows_in.sum() - moments.rows_in)[:, None]
    first, second, third, fourth = (powers[:, power][:, moments.varies] / count for power in range(4))
    variance = second - first**2
    about_mean = fourth - 4 * third * first + 6 * second * first**2 - 3 * first**4
    return _jackknife(kurtosis, (about_mean / variance**2 - 3).mean(axis=1))


def _rank_interval(rows: Rows, moments: _Moments, rank: float, threads: int) -> Interval | None:
    """Computes the interval from each row's influence on the entropy of the spectrum, which saves a spectrum per run.

    The entropy H = -sum p log p of p = lambda / sum lambda moves with the covariance C by trace(F dC), where F has the
    eigenvectors of C and the eigenvalues -(log p + H) / sum lambda. A row y moves C towards y y'.
    """
    eigenvalues, vectors = np.linalg.eigh(moments.gram / moments.tokens)
    shares = np.maximum(eigenvalues, 0) / eigenvalues.sum()
    used = shares > 1e-12
    entropy = math.log(rank)
    weights = -(np.log(shares[used]) + entropy) / eigenvalues.sum()
    directions = vectors[:, used].astype(np.float32)
    ln_mean = moments.ln_mean.astype(np.float32)

    def influence(block: NDArray[np.float32]) -> float:
        along = (layer_norm(block).astype(np.float32) - ln_mean) @ directions
        return float(np.einsum("td,td->d", along, along, dtype=np.float64) @ weights)

    sums = np.zeros(GROUPS)
    for start, _, found in _over_blocks(rows, influence, threads):
        sums[_run_of(start, moments.tokens)] += found
    means = sums / moments.rows_in
    half = student_t.ppf(0.975, GROUPS - 1) * means.std(ddof=1) / math.sqrt(GROUPS)
    return _exp((entropy - half, entropy + half))
