"""Shares of the mean's square and of massive tokens, by hand."""

import numpy as np
import pytest

from saelib.activations.rows import ArrayRows
from saelib.stats.compute import compute_stats
from saelib.stats.outliers import outlier_dimensions


def test_shares_are_those_of_the_unit_mean_and_not_of_the_spread() -> None:
    unit_mean = np.array([0.1, 0.6, -0.8, 0.0])
    mean, std = np.array([1.0, 12.0, -15.0, 0.0]), np.array([1.0, 2.0, 3.0, 500.0])
    found = outlier_dimensions(unit_mean, mean, std)
    assert [one.index for one in found] == [2, 1]
    assert [one.share for one in found] == pytest.approx([0.64 / 1.01, 0.36 / 1.01])
    assert [(one.mean, one.std) for one in found] == [(-15.0, 3.0), (12.0, 2.0)]


def test_without_a_mean_no_dimension_carries_it() -> None:
    assert outlier_dimensions(np.zeros(3), np.zeros(3), np.ones(3)) == []


def test_statistics_name_the_dimension_that_holds_the_mean() -> None:
    x = np.random.default_rng(0).standard_normal((5_000, 32)).astype(np.float32)
    x[:, 7] += 40
    (found,) = compute_stats(ArrayRows(x, "toy")).outlier_dimensions
    unit_mean = (x / np.linalg.norm(x, axis=1, keepdims=True)).mean(0, dtype=np.float64)
    assert found.index == 7
    assert found.share == pytest.approx(unit_mean[7] ** 2 / (unit_mean @ unit_mean), rel=1e-6)
    assert (found.mean, found.std) == pytest.approx((x[:, 7].mean(dtype=np.float64), x[:, 7].std(dtype=np.float64)))


@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
def test_massive_tokens_are_more_than_ten_times_as_long_as_the_median_one(scale: float) -> None:
    x = np.random.default_rng(1).standard_normal((4_000, 16)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[:40] *= 10.1
    x[40:80] *= 9.9
    x[80:90] = 0
    assert compute_stats(ArrayRows(x * np.float32(scale), "toy")).massive_share == 0.01
