"""Neighbors are those with the largest cosines, and the map keeps them close together."""

import numpy as np
import pytest

from saelib.features import directions
from saelib.features.directions import layout, nearest


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_neighbors_have_the_largest_cosines(monkeypatch, block):
    monkeypatch.setattr(directions, "BLOCK", block)
    values = np.random.default_rng(0).normal(size=(50, 12))
    found = nearest(values, 5)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_array_equal(found.latents, np.argsort(-cosines, axis=1)[:, :5])
    np.testing.assert_allclose(found.cosines, -np.sort(-cosines, axis=1)[:, :5], atol=1e-6)


def test_few_latents_have_few_neighbors_and_zeros_are_like_nothing():
    found = nearest(np.array([[1.0, 0], [0, 0], [2, 0]]))
    assert found.latents.shape == (3, 2)
    assert found.latents[0].tolist() == [2, 1]
    np.testing.assert_array_equal(found.cosines[1], [0, 0])


def test_the_map_keeps_groups_together():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 32))
    group = np.repeat(np.arange(4), 40)
    values = centers[group] + 0.3 * rng.normal(size=(160, 32))
    places = layout(values, nearest(values))
    assert places.shape == (160, 2)
    assert places.min() >= 0
    assert places.max() <= 1
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).mean() > 0.95


def test_the_map_is_the_same_each_time_and_finite_for_equal_directions():
    values = np.ones((30, 4))
    first, second = (layout(values, nearest(values)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()
