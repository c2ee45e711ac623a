"""k-sparse probing: optimality of the fits, the ranking and the AUC by definition, and probes of known latents."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import expit

from saelib import UserError, evaluation
from saelib.evaluation import probing
from saelib.evaluation.labels import Labels


def case(tokens: int = 300, latents: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes, of which latent 3 tells the classes apart well and latent 5 a little."""
    rng = np.random.default_rng(seed)
    truth = np.arange(tokens) % 2 == 0
    codes = rng.exponential(size=(tokens, latents)) * (rng.random((tokens, latents)) < 0.5)
    codes[:, 3] += 2 * truth * (rng.random(tokens) < 0.9)
    codes[:, 5] += 0.5 * truth
    return codes, truth


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1e-3, 0.1, 1.0, 30.0]))
def test_fits_fulfil_the_conditions_of_optimality(seed: int, strength: float) -> None:
    """At the minimum, the slope of the loss cancels that of the penalty; if an l1 weight is 0, |slope| <= 1."""
    codes, truth = case(120, 6, seed)
    for penalty in ("l1", "l2"):
        found = probing.fit_logistic(codes, truth, strength, penalty)
        error = expit(codes @ found[:-1] + found[-1]) - truth
        slope = strength * codes.T @ error
        tolerance = 2e-3 * max(1, strength)
        assert strength * error.sum() == pytest.approx(0, abs=tolerance)
        if penalty == "l2":
            np.testing.assert_allclose(slope, -found[:-1], atol=tolerance)
        else:
            zero = np.abs(found[:-1]) < 1e-6
            assert (np.abs(slope[zero]) <= 1 + tolerance).all()
            np.testing.assert_allclose(slope[~zero], -np.sign(found[:-1][~zero]), atol=tolerance)


def test_a_strong_l1_penalty_leaves_the_intercept_alone() -> None:
    codes, truth = case(200)
    found = probing.fit_logistic(codes, np.arange(200) < 50, 1e-4, "l1")
    np.testing.assert_allclose(found[:-1], 0, atol=1e-9)
    assert expit(found[-1]) == pytest.approx(0.25, abs=1e-3)
    assert np.abs(probing.fit_logistic(codes, truth, 10.0, "l1")[:-1]).max() > 0.1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=20))
def test_the_auc_is_the_share_of_pairs_in_order(tokens: list[tuple[bool, int]]) -> None:
    truth, scores = np.array([kind for kind, _ in tokens]), np.array([float(score) for _, score in tokens])
    if truth.all() or not truth.any():
        return
    pairs = scores[truth][:, None] - scores[~truth][None]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert probing.auc(truth, scores) == pytest.approx(expected)


def test_latents_are_ranked_by_the_difference_of_scaled_means() -> None:
    codes, truth = case()
    scaled = [codes[:, j] / codes[codes[:, j] > 0, j].mean() for j in range(codes.shape[1])]
    difference = [abs(one[truth].mean() - one[~truth].mean()) for one in scaled]
    ranked = probing.rank_latents(sparse.csr_array(codes), truth)
    np.testing.assert_array_equal(ranked, np.argsort(difference)[::-1])
    scaled_codes = sparse.csr_array(codes * 10.0 ** np.arange(-2, 10)[: codes.shape[1]])
    np.testing.assert_array_equal(probing.rank_latents(scaled_codes, truth)[:2], ranked[:2])


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_probes_find_what_is_there_and_nothing_else(penalty: probing.Penalty) -> None:
    (codes, truth), (other, other_truth) = case(), case(seed=1)
    found = evaluation.k_sparse_probe(sparse.csr_array(codes), truth, torch.from_numpy(other), other_truth, [1, 4, 99])
    assert [(one.k, one.latents[0]) for one in found] == [(1, 3), (4, 3)]
    assert found[0].auc > 0.8
    assert found[0].accuracy > 0.75
    assert found[0].f1 == pytest.approx(found[0].accuracy, abs=0.05)
    shuffled = np.random.default_rng(0).permutation(truth)
    chance = evaluation.k_sparse_probe(codes, shuffled, other, other_truth, [4], penalty)
    assert chance[0].auc == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("tokens", [10, 12, 60, 127, 128, 1000])
def test_validation_tokens_are_of_both_classes_and_apart(tokens: int) -> None:
    truth = np.random.default_rng(0).permutation(np.arange(tokens) % 2 == 0)
    folds = list(probing._folds(truth, seed=0))
    assert all(0 < truth[held].sum() < held.sum() for held in folds)
    if tokens <= 12:
        assert len(folds) == (tokens // 2) ** 2
    elif tokens < 128:
        assert np.sum(folds, axis=0).tolist() == [1] * tokens
    else:
        assert [held.sum() for held in folds] == [min(tokens // 5, 100)]


def test_concepts_are_probed_on_as_many_tokens_with_as_without() -> None:
    (codes, truth), (other, other_truth) = case(400), case(400, seed=1)
    rare = np.arange(400) < 5
    labels, other_labels = (
        Labels.joined([Labels.of_rows(np.where(kind, "", "x").tolist(), name) for name, kind in columns])
        for columns in ((("odd ", truth), ("rare ", ~rare)), (("odd ", other_truth), ("rare ", ~rare)))
    )
    found = evaluation.probe_concepts(codes, labels, other, other_labels, ks=[1, 2], tokens=100)
    assert isinstance(found, pl.DataFrame)
    assert found.select("concept", "k").rows() == [("odd x", 1), ("odd x", 2)]
    assert found["auc"].min() > 0.75  # type: ignore[operator]
    again = evaluation.probe_concepts(codes, labels, other, other_labels, ks=[1, 2], tokens=100)
    assert found.equals(again)


def test_what_does_not_fit_is_said() -> None:
    codes, truth = case()
    with pytest.raises(UserError, match="train_truth: all tokens are of one class"):
        evaluation.k_sparse_probe(codes, np.ones(300), codes, truth)
    with pytest.raises(UserError, match="test_truth: should be 300 truth values"):
        evaluation.k_sparse_probe(codes, truth, codes, truth[1:])
    with pytest.raises(UserError, match="train_codes have 12 latents and test_codes 11"):
        evaluation.k_sparse_probe(codes, truth, codes[:, 1:], truth)
    with pytest.raises(UserError, match="train: codes of 300 tokens and labels of 2"):
        evaluation.probe_concepts(codes, Labels.of_rows(["a", "b"]), codes, Labels.of_rows(["a", "b"]))
    with pytest.raises(UserError, match="too few training tokens of one class"):
        evaluation.k_sparse_probe(codes[:300], np.arange(300) < 1, codes, truth)
