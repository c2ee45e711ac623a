"""Monosemanticity: the definition over all pairs, its laws, and batches."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from saelib import UserError, evaluation
from saelib.evaluation import monosemantic


def by_pairs(acts: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """The definition, pair by pair."""
    scores = []
    for latent in acts.T:
        spread = latent.max() - latent.min()
        scaled = (latent - latent.min()) / spread if spread else np.zeros(len(latent))
        total = weighted = 0.0
        for i, j in combinations(range(len(latent)), 2):
            lengths = np.linalg.norm(embeddings[i]) * np.linalg.norm(embeddings[j])
            cosine = embeddings[i] @ embeddings[j] / lengths if lengths else 0.0
            total += scaled[i] * scaled[j]
            weighted += scaled[i] * scaled[j] * cosine
        scores.append(weighted / total if total else np.nan)
    return np.array(scores)


def codes(inputs: int = 60, latents: int = 9, density: float = 0.3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    acts = rng.exponential(size=(inputs, latents)) * (rng.random((inputs, latents)) < density)
    acts[:, 0] = 0
    acts[:, 1] = np.arange(inputs) == 3
    return acts


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 1.0]), st.sampled_from([-2, 0, 5.0]))
def test_it_is_the_definition_over_all_pairs(seed: int, density: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((40, 4)) + 0.5
    embeddings[7] = 0
    acts = codes(40, 6, density, seed) + offset * rng.random(6)
    np.testing.assert_allclose(evaluation.monosemanticity(acts, embeddings), by_pairs(acts, embeddings), atol=1e-9)


def test_dead_latents_and_latents_of_one_input_have_no_score() -> None:
    found = evaluation.monosemanticity(codes(), np.random.default_rng(1).standard_normal((60, 4)))
    assert np.isnan(found).tolist() == [True, True] + [False] * 7


def test_raw_neurons_with_a_large_mean() -> None:
    rng = np.random.default_rng(0)
    neurons, embeddings = rng.standard_normal((80, 5)), rng.standard_normal((80, 3))
    expected = by_pairs(neurons, embeddings)
    np.testing.assert_allclose(evaluation.monosemanticity(neurons, embeddings), expected, atol=1e-9)
    np.testing.assert_allclose(evaluation.monosemanticity(neurons * 1e-3 + 1e4, embeddings), expected, atol=1e-6)


def test_scale_of_activations_and_embeddings_rotations_and_order_change_nothing() -> None:
    rng = np.random.default_rng(0)
    acts, embeddings = codes(), rng.standard_normal((60, 4))
    expected = evaluation.monosemanticity(acts, embeddings)
    order, rotation = rng.permutation(60), np.linalg.qr(rng.standard_normal((4, 4)))[0]
    lengths = rng.uniform(0.1, 10, (60, 1))
    found = evaluation.monosemanticity(
        (acts * rng.uniform(0.1, 10, 9))[order], (embeddings * lengths @ rotation)[order]
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_equal_inputs_score_one_and_random_firing_the_mean_cosine() -> None:
    rng = np.random.default_rng(0)
    one_thing = np.repeat(rng.standard_normal((1, 5)), 60, axis=0)
    np.testing.assert_allclose(evaluation.monosemanticity(codes(), one_thing)[2:], 1)
    embeddings = rng.standard_normal((3000, 5)) + 1
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    mean_cosine = (np.square(unit.sum(0)).sum() - 3000) / (3000 * 2999)
    at_random = evaluation.monosemanticity(codes(3000, 40), embeddings)[2:]
    assert at_random.mean() == pytest.approx(mean_cosine, abs=0.01)


def test_batches_and_sparse_matrices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    acts, embeddings = codes(), np.random.default_rng(1).standard_normal((60, 4))
    expected = evaluation.monosemanticity(acts, embeddings)
    monkeypatch.setattr(monosemantic, "BLOCK", 13)
    for kind in (sparse.csr_array, torch.from_numpy, np.asarray):
        meter = evaluation.MonosemanticityMeter()
        for start, stop in ((0, 25), (25, 30), (30, 60)):
            meter.add(kind(acts[start:stop]), torch.from_numpy(embeddings[start:stop]))
        np.testing.assert_allclose(meter.scores(), expected, atol=1e-12)
    mixed = evaluation.MonosemanticityMeter()
    mixed.add(acts[:25], embeddings[:25])
    mixed.add(sparse.csr_array(acts[25:]), embeddings[25:])
    np.testing.assert_allclose(mixed.scores(), expected, atol=1e-12)


def test_what_does_not_fit_is_said() -> None:
    meter = evaluation.MonosemanticityMeter()
    with pytest.raises(UserError, match="there are no inputs"):
        meter.scores()
    with pytest.raises(UserError, match="3 rows of feature_acts and 4 embeddings"):
        meter.add(np.ones((3, 2)), np.ones((4, 2)))
    meter.add(np.ones((3, 2)), np.ones((3, 5)))
    with pytest.raises(UserError, match="3 latents and embeddings of width 5; should be 2 and 5"):
        meter.add(np.ones((3, 3)), np.ones((3, 5)))
