"""Baselines: exact reconstructions, TopK, chance; intervals of differences cover the truth."""

import numpy as np
import pytest
import torch

from saelib import UserError, evaluation

TOKENS, D = 300, 6


def activations() -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((TOKENS, D)) + 3).astype(np.float32)


def test_neurons_and_all_components_reconstruct_exactly() -> None:
    x = activations()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))[0]
    for sae in (evaluation.neuron_sae(np.full(D, 3.0)), evaluation.pca_sae(rotation, x.mean(0))):
        np.testing.assert_allclose(sae.reconstruct(x), x, atol=1e-5)
        assert (sae.encode(x) > 0).sum(1).tolist() == [D] * TOKENS
        np.testing.assert_array_equal(sae.encode(torch.from_numpy(x)), sae.encode(x))


def test_leading_components_explain_their_share_of_the_variance() -> None:
    x = activations() * np.array([5, 3, 1, 1, 1, 1], np.float32)
    center = x.mean(0)
    eigenvalues, vectors = np.linalg.eigh(np.cov(x.T))
    found = evaluation.core_metrics(x, evaluation.pca_sae(vectors[:, -2:].T, center)).all
    assert found.explained_variance == pytest.approx(eigenvalues[-2:].sum() / eigenvalues.sum(), abs=1e-5)


def test_a_random_sae_keeps_the_k_largest() -> None:
    x = activations()
    sae = evaluation.random_sae(x.mean(0), d_sae=40, k=5, seed=2)
    projections = (x - x.mean(0)) @ sae.directions.T
    largest = np.sort(projections, axis=1)[:, -5:]
    np.testing.assert_allclose(np.sort(sae.encode(x), axis=1)[:, -5:], np.maximum(largest, 0), atol=1e-5)
    assert (sae.encode(x) > 0).sum(1).max() == 5
    np.testing.assert_allclose(np.linalg.norm(sae.directions, axis=1), 1, rtol=1e-5)
    assert not np.allclose(sae.directions, evaluation.random_sae(x.mean(0), 40, 5, seed=3).directions)


def test_sizes_of_baselines_that_do_not_fit_are_said() -> None:
    with pytest.raises(UserError, match="k is 9; should be from 1 to the number of latents, 8"):
        evaluation.random_sae(np.zeros(3), d_sae=8, k=9)
    with pytest.raises(UserError, match="directions have 2 dimensions and the center 3"):
        evaluation.pca_sae(np.eye(2), np.zeros(3))
    with pytest.raises(UserError, match="activations have 2 dimensions and the center 3"):
        evaluation.neuron_sae(np.zeros(3)).encode(np.zeros((4, 2)))


@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.0), (3, 0.05), (5, 0.2)])
def test_intervals_cover_the_true_difference(seeds: int, seed_sd: float) -> None:
    """Over 400 draws of items, seeds and noise, the 95 % interval holds the truth in about 95 % of them."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        items, gains = rng.random(50), 0.1 + 0.1 * rng.standard_normal(50)
        first, second = (
            items + shift + seed_sd * rng.standard_normal((seeds, 1)) + 0.02 * rng.standard_normal((seeds, 50))
            for shift in (gains, 0)
        )
        found = evaluation.score_difference(first, second)
        covered += found.low <= 0.1 <= found.high
    assert 0.92 < covered / 400 < 0.995


def test_differences_are_paired_over_items() -> None:
    rng = np.random.default_rng(0)
    items = 10 * rng.random(100)
    found = evaluation.score_difference(items + 0.1 + 0.01 * rng.standard_normal(100), items)
    assert found.reliable
    assert (found.items, found.seeds) == (100, (1, 1))
    assert not evaluation.score_difference(items + 0.1, rng.permutation(items)).reliable
    assert found.high - found.low == pytest.approx(2 * found.smallest_reliable)
    back = evaluation.score_difference(items, items + 0.1)
    assert (back.mean, back.smallest_reliable) == pytest.approx((-0.1, 0), abs=1e-12)
    wider = evaluation.score_difference(items + 0.1 * rng.random(100), items, level=0.99)
    assert wider.smallest_reliable > evaluation.score_difference(items + 0.1 * rng.random(100), items).smallest_reliable


def test_items_without_a_score_are_left_out_and_too_few_are_said() -> None:
    found = evaluation.score_difference([[1.0, np.nan, 2.0, 4.0]], [[1.0, 1.0, 1.0, np.nan], [1.0, 1.0, 1.0, 1.0]])
    assert (found.items, found.mean) == (2, 0.5)
    with pytest.raises(UserError, match="1 items have a score of every SAE"):
        evaluation.score_difference([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(UserError, match=r"scores: \[3\] and \[2\]; should be \[seeds, items\] twice"):
        evaluation.score_difference([1.0, 2, 3], [1.0, 2])
