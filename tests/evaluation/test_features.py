"""Scores against known features: a loop over latents, limits, and batches."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import sparse

from saelib import UserError, evaluation
from saelib.evaluation.sums import ErrorSums

FEATURES, LATENTS, D, TOKENS = 7, 12, 5, 400


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, ...]:
    """Features, decoder, their activations (some latents dead), the SAE's input and its output."""
    rng = np.random.default_rng(0)
    true, learned = rng.standard_normal((FEATURES, D)), rng.standard_normal((LATENTS, D))
    true_acts = rng.exponential(size=(TOKENS, FEATURES)) * (rng.random((TOKENS, FEATURES)) < 0.3)
    latent_acts = rng.standard_normal((TOKENS, LATENTS)) * (rng.random((TOKENS, LATENTS)) < 0.2)
    latent_acts[:, :2] = 0
    return true, learned, true_acts, latent_acts, true_acts @ true + 3, latent_acts @ learned + 2


def test_scores_are_those_of_a_loop_over_latents(case: tuple[np.ndarray, ...]) -> None:
    true, learned, true_acts, latent_acts, x, x_hat = case
    precision, recall, f1, closest = [], [], [], []
    for latent in range(LATENTS):
        cosines = [abs(learned[latent] @ f) / np.linalg.norm(learned[latent]) / np.linalg.norm(f) for f in true]
        closest.append(int(np.argmax(cosines)))
        fires, present = latent_acts[:, latent] != 0, true_acts[:, closest[-1]] > 0
        hits = (fires & present).sum()
        precision.append(hits / fires.sum() if fires.any() else 0.0)
        recall.append(hits / present.sum())
        total = precision[-1] + recall[-1]
        f1.append(2 * precision[-1] * recall[-1] / total if total else 0.0)
    found = evaluation.feature_scores(*case)
    assert found.precision == pytest.approx(np.mean(precision))
    assert found.recall == pytest.approx(np.mean(recall))
    assert found.f1 == pytest.approx(np.mean(f1))
    assert found.uniqueness == len(set(closest)) / LATENTS
    assert found.dead_latents == 2
    assert found.sae_l0 == pytest.approx((latent_acts != 0).sum(1).mean())
    assert found.true_l0 == pytest.approx((true_acts > 0).sum(1).mean())
    assert found.shrinkage == pytest.approx(np.mean(np.linalg.norm(x_hat, axis=1) / np.linalg.norm(x, axis=1)))
    assert found.explained_variance == pytest.approx(1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())
    assert (found.mcc, found.mmcs) == (evaluation.mcc(true, learned), evaluation.mmcs(true, learned))


def test_batches_and_sparse_matrices_change_nothing(case: tuple[np.ndarray, ...]) -> None:
    true, learned, *per_token = case
    whole = asdict(evaluation.feature_scores(*case))
    meter = evaluation.FeatureMeter(torch.from_numpy(true), learned)
    for start in range(0, TOKENS, 150):
        true_acts, latent_acts, x, x_hat = (one[start : start + 150] for one in per_token)
        meter.add(sparse.csc_array(true_acts), torch.from_numpy(latent_acts), x, x_hat)
    assert asdict(meter.scores()) == pytest.approx(whole, rel=1e-12)


def test_a_perfect_sae(case: tuple[np.ndarray, ...]) -> None:
    true, _, true_acts, _, x, _ = case
    order = np.random.default_rng(1).permutation(FEATURES)
    found = evaluation.feature_scores(true, true[order], true_acts, true_acts[:, order], x, x)
    perfect = (found.mcc, found.mmcs, found.f1, found.precision, found.recall, found.uniqueness, found.shrinkage)
    assert perfect == pytest.approx((1,) * 7)
    assert (found.explained_variance, found.dead_latents) == (1, 0)
    assert found.sae_l0 == found.true_l0


def test_without_reconstructions_their_scores_are_none(case: tuple[np.ndarray, ...]) -> None:
    found = evaluation.feature_scores(*case[:4])
    assert found.explained_variance is None
    assert found.shrinkage is None


def test_tokens_without_length_have_no_shrinkage() -> None:
    x = np.array([[2.0, 0], [0, 0]])
    found = evaluation.feature_scores(np.eye(2), np.eye(2), x, x, x, [[1.0, 0], [5, 5]])
    assert found.shrinkage == 0.5


def test_a_large_mean_costs_no_digits() -> None:
    rng = np.random.default_rng(0)
    noise, error = rng.standard_normal((1000, 8)), 0.1 * rng.standard_normal((1000, 8))
    expected = 1 - (error**2).sum() / ((noise - noise.mean(0)) ** 2).sum()
    sums = ErrorSums()
    for start in range(0, 1000, 300):
        sums.add(noise[start : start + 300] + 1e6, noise[start : start + 300] + 1e6 + error[start : start + 300])
    assert sums.explained_variance == pytest.approx(expected, rel=1e-6)
    constant = ErrorSums()
    constant.add(np.full((5, 3), 1e6 + 0.1), np.zeros((5, 3)))
    assert np.isnan(constant.explained_variance)


def test_sizes_that_do_not_fit_are_said(case: tuple[np.ndarray, ...]) -> None:
    true, learned, true_acts, latent_acts, x, x_hat = case
    meter = evaluation.FeatureMeter(true, learned)
    with pytest.raises(UserError, match=r"latent_acts: has the shape \[400, 7\]; should be \[400, 12\]"):
        meter.add(true_acts, true_acts)
    with pytest.raises(UserError, match=r"reconstructions: has the shape \[399, 5\]; should be \[400, 5\]"):
        meter.add(true_acts, latent_acts, x, x_hat[1:])
    with pytest.raises(UserError, match="true_directions have 5 dimensions and learned_directions 4"):
        evaluation.FeatureMeter(true, learned[:, :4])
    with pytest.raises(UserError, match="there are no tokens"):
        meter.scores()
