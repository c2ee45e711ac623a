"""Intervals cover what they should, and their parts agree with closed forms."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.diagnosis.intervals import Interval, measure_spread
from saelib.stats import compute_stats

D_IN, TOKENS = 6, 1280


def spread_of(x: NDArray[np.float64]):
    rows = ArrayRows(x.astype(np.float32), "toy")
    stats = compute_stats(rows)
    return stats, measure_spread(rows, stats)


def test_the_mean_of_unit_tokens_and_the_norms_are_those_of_numpy() -> None:
    x = np.random.default_rng(0).standard_normal((1000, D_IN)) + 2
    _, spread = spread_of(x)
    norms = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(spread.norms, norms, rtol=1e-6)
    np.testing.assert_allclose(spread.unit_mean, (x / norms[:, None]).mean(0), atol=1e-6)


def test_a_large_offset_costs_the_intervals_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((TOKENS, D_IN))
    near, far = (spread_of(x + offset)[1].intervals for offset in (10, 1000))
    assert near.gamma_raw is not None
    assert far.gamma_raw is not None
    assert (far.gamma_raw[1] / far.gamma_raw[0]) == pytest.approx(near.gamma_raw[1] / near.gamma_raw[0], rel=0.02)


def test_few_rows_have_no_intervals() -> None:
    _, spread = spread_of(np.random.default_rng(0).standard_normal((100, D_IN)))
    assert spread.intervals.gamma is None
    assert spread.intervals.effective_rank is None


def independent(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.standard_normal((TOKENS, D_IN)) * np.arange(1, D_IN + 1) + np.array([2, 0, 0, 1, 0, 0])


def documents(rng: np.random.Generator) -> NDArray[np.float64]:
    """Ten tokens of a document share half of their variance."""
    shared = np.repeat(rng.standard_normal((TOKENS // 10, D_IN)), 10, axis=0)
    return (rng.standard_normal((TOKENS, D_IN)) + shared) * np.arange(1, D_IN + 1) + np.array([2, 0, 0, 1, 0, 0])


@pytest.mark.parametrize("draw", [independent, documents])
def test_intervals_cover_the_truth_in_19_of_20_data_sets(draw) -> None:
    """Whether tokens are independent or come in documents. The truth is that of 400,000 tokens."""
    rng = np.random.default_rng(1)
    truth = compute_stats(ArrayRows(np.concatenate([draw(rng) for _ in range(300)]).astype(np.float32)))
    names = ("gamma", "gamma_raw", "gamma_unit", "effective_rank")
    covered = dict.fromkeys(names, 0)
    for _ in range(sets := 100):
        intervals = spread_of(draw(rng))[1].intervals
        for name in names:
            covered[name] += covers(getattr(intervals, name), getattr(truth, name))
    # Two binomial standard deviations of 100 draws at 95 % are 4.4; gamma's small bias takes a little more.
    assert all(88 <= count <= sets for count in covered.values()), covered


def covers(interval: Interval | None, value: float) -> bool:
    assert interval is not None
    return interval[0] <= value <= interval[1]
