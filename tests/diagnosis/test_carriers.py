"""Shares of the mean's square and places of massive tokens, by hand."""

import numpy as np
import pytest

from saelib.diagnosis.carriers import massive_tokens, outlier_dimensions


def test_shares_are_those_of_the_unit_mean_and_not_of_the_spread() -> None:
    unit_mean = np.array([0.1, 0.6, -0.8, 0.0])
    mean, std = np.array([1.0, 12.0, -15.0, 0.0]), np.array([1.0, 2.0, 3.0, 500.0])
    found = outlier_dimensions(unit_mean, mean, std)
    assert [one.index for one in found] == [2, 1]
    assert [one.share for one in found] == pytest.approx([0.64 / 1.01, 0.36 / 1.01])
    assert [(one.mean, one.std) for one in found] == [(-15.0, 3.0), (12.0, 2.0)]


def test_without_a_mean_no_dimension_carries_it() -> None:
    assert outlier_dimensions(np.zeros(3), np.zeros(3), np.ones(3)) == []


def test_massive_tokens_are_ten_times_as_long_as_the_median_one() -> None:
    norms = np.array([0, 1, 1, 9.9, 1, 1, 10.1, 50], np.float32)
    positions = np.array([0, 1, 0, 1, 0, 1, 0, 0])
    found = massive_tokens(norms, positions)
    assert (found.share, found.position, found.at_position) == (0.25, 0, 1.0)
    assert found.norm_ratio == pytest.approx(50)
    assert massive_tokens(norms, None).position is None
