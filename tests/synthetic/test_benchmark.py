"""The benchmark's features fire as its recipe says: against a slow reference, and against closed forms."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal, norm

from saelib.config.synthetic import BenchmarkDataConfig, SyntheticConfig
from saelib.errors import UserError
from saelib.synthetic import make_data
from saelib.synthetic.benchmark import BenchmarkSignal
from saelib.synthetic.firing import phi_table
from saelib.synthetic.recipe import RECIPES, Recipe
from saelib.synthetic.saelens import write_synthetic_model

TOKENS = 200_000
TINY = Recipe(70, 16, roots=3, children=3, depth=2, highest=0.6, lowest=0.05, correlation=0.12, deviation_mean=2.0)


def signal(recipe: Recipe, seed: int = 0) -> BenchmarkSignal:
    """A signal whose features need no orthogonalization, because only codes are looked at."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((recipe.n_features, recipe.d_in)).astype(np.float32)
    return BenchmarkSignal(recipe, seed, features, recipe.factor(rng))


def codes_of(source: BenchmarkSignal, tokens: int = TOKENS, seed: int = 1) -> NDArray[np.float32]:
    return source.sample(tokens, np.random.default_rng(seed))[1].dense(source.recipe.n_features)


def reference(source: BenchmarkSignal, tokens: int, seed: int = 2) -> NDArray[np.float64]:
    """Draws codes as the recipe is described: all normal variables, thresholds, and then level by level."""
    rng, recipe = np.random.default_rng(seed), source.recipe
    factor = source.factor.astype(np.float64)
    shared = rng.standard_normal((tokens, recipe.rank)) @ factor.T
    own = rng.standard_normal((tokens, recipe.n_features)) * np.sqrt(1 - (factor**2).sum(axis=1))
    fires = shared + own > norm.isf(recipe.probabilities)
    magnitudes = recipe.means + recipe.deviations(source.seed) * rng.standard_normal(fires.shape)
    codes = np.where(fires, np.maximum(magnitudes, 0), 0)
    for parent in np.flatnonzero(recipe.first_child >= 0):  # parents come before their children
        siblings = slice(recipe.first_child[parent], recipe.first_child[parent] + recipe.children)
        codes[:, siblings] *= (codes[:, parent] / recipe.means[parent])[:, None]
        lots = np.where(codes[:, siblings] > 0, rng.random((tokens, recipe.children)), -1)
        codes[:, siblings] *= lots == lots.max(axis=1, keepdims=True)
    return codes


def within_errors(found: NDArray[np.floating], expected: NDArray[np.floating], error: NDArray[np.floating]) -> None:
    z = (found - expected) / error
    assert np.abs(z).max() < 5
    assert np.sqrt((z**2).mean()) < 1.3


def test_codes_are_those_of_a_slow_reference() -> None:
    source = signal(TINY)
    ours, theirs = codes_of(source), reference(source, TOKENS)
    for function in (lambda a: a > 0, lambda a: a, lambda a: a**2):
        first, second = (function(codes).astype(np.float64) for codes in (ours, theirs))
        within_errors(first.mean(0), second.mean(0), np.sqrt((first.var(0) + second.var(0)) / TOKENS))
    pairs = np.triu_indices(TINY.n_features, 1)
    together = [((a > 0).astype(float).T @ (a > 0) / TOKENS)[pairs] for a in (ours, theirs)]
    p = (together[0] + together[1]) / 2
    within_errors(together[0][p > 0], together[1][p > 0], np.sqrt(2 * p * (1 - p) / TOKENS)[p > 0])


def test_roots_and_free_features_fire_at_the_power_law() -> None:
    recipe = RECIPES["small"]
    alone = np.r_[: recipe.roots, recipe.levels[-1].stop : recipe.n_features]
    p = recipe.frequencies[alone]
    assert p[0] == 0.4
    assert p[-1] == 5e-4
    np.testing.assert_array_equal(recipe.probabilities[alone], p)
    codes = signal(recipe).sample(TOKENS, np.random.default_rng(1))[1]
    rates = np.bincount(codes.indices, minlength=recipe.n_features)[alone] / TOKENS
    # A magnitude of 5 deviations of |N(0.5, 0.5)| is seldom below 0; it then counts as absent.
    absent = norm.sf(recipe.means[alone] / recipe.deviations(0)[alone])
    expected = p * (1 - absent)
    within_errors(rates, expected, np.sqrt(expected * (1 - expected) / TOKENS))


def test_pairs_fire_together_as_a_bivariate_normal_says() -> None:
    source = signal(replace(TINY, correlation=0.19))
    present = codes_of(source)[:, :3] > 0
    quiet = norm.sf(TINY.means[:3] / TINY.deviations(0)[:3])
    correlations = []
    for a, b in combinations(range(3), 2):
        rho = float(source.factor[a] @ source.factor[b])
        thresholds = -norm.isf(TINY.probabilities[[a, b]])
        both = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf(thresholds) * np.prod(1 - quiet[[a, b]])
        found = (present[:, a] & present[:, b]).mean()
        assert found == pytest.approx(both, abs=5 * np.sqrt(both / TOKENS))
        correlations.append(abs(rho))
    assert max(correlations) > 0.1  # otherwise the test would see nothing


def test_children_fire_only_with_their_parent_and_alone() -> None:
    recipe = RECIPES["small"]
    codes = codes_of(signal(recipe), 50_000)
    for parent in np.flatnonzero(recipe.first_child >= 0):
        family = codes[:, recipe.first_child[parent] :][:, : recipe.children] > 0
        assert family.sum(axis=1).max() <= 1
        assert not family[codes[:, parent] == 0].any()


def test_the_published_recipe_has_about_34_active_features() -> None:
    source = signal(replace(RECIPES["16k"], d_in=2))
    assert [len(level) for level in source.recipe.levels] == [128, 512, 2048, 8192]
    l0 = np.diff(source.sample(8192, np.random.default_rng(0))[1].starts)
    assert l0.mean() == pytest.approx(34, abs=1)


def test_phi_between_the_points_of_its_table() -> None:
    points = np.linspace(-6.5, 6.5, len(phi_table()))
    x = np.random.default_rng(0).uniform(-6.5, 6.5, 100_000)
    np.testing.assert_allclose(np.interp(x, points, phi_table()), norm.cdf(x), atol=1.5e-7)


def test_features_are_made_orthogonal_as_torchs_adam_would() -> None:
    """It descends the sum of squared products of different rows, with norms held near 1."""
    import torch

    recipe = replace(TINY, n_features=40, d_in=7, steps=30)
    random = replace(recipe, steps=0).features(np.random.default_rng(0))
    rows = torch.tensor(random, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([rows], lr=recipe.rate)
    for _ in range(recipe.steps):
        adam.zero_grad()
        products = rows @ rows.T
        own = products.diagonal()
        ((products**2).sum() - (own**2).sum() + 40 * ((own - 1) ** 2).sum()).backward()
        adam.step()
    expected = torch.nn.functional.normalize(rows.detach(), dim=1).numpy()
    found = recipe.features(np.random.default_rng(0))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - random).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_features_overlap_less_than_random_ones() -> None:
    small = RECIPES["small"]
    squares = []
    for steps in (0, small.steps):
        features = replace(small, steps=steps).features(np.random.default_rng(0))
        squares.append(((features @ features.T) ** 2).sum() - len(features))
    # No rows overlap less than n^2 / d - n in total (Welch's bound); random ones have that and n more.
    bound = 1024**2 / 128 - 1024
    assert bound < squares[1] < bound + 0.5 * (squares[0] - bound)


@pytest.mark.parametrize("gamma", [0.0, 0.2, 20.0])
def test_gamma_is_that_of_samples(gamma: float) -> None:
    data = make_data(BenchmarkDataConfig(edition="small", gamma=gamma), seed=3)
    assert data.gamma == pytest.approx(gamma, abs=1e-12)
    x, codes = data.sample_with_codes(50_000, np.random.default_rng(0))
    np.testing.assert_allclose(x, codes.dense(1024) @ data.features + data.offset, atol=2e-3)
    sigma = np.sqrt(x.var(axis=0, dtype=np.float64).sum())
    assert sigma == pytest.approx(data.signal_norm, rel=0.02)
    found = np.linalg.norm(x.mean(axis=0, dtype=np.float64)) / sigma
    assert found == pytest.approx(gamma, rel=0.02, abs=0.02)


def test_only_the_offset_depends_on_gamma() -> None:
    low, high = (make_data(BenchmarkDataConfig(edition="small", gamma=gamma), seed=3) for gamma in (0.2, 40.0))
    first, second = (data.signal(2000, np.random.default_rng(1)) for data in (low, high))
    np.testing.assert_array_equal(first, second)
    cosine = low.mean @ high.mean / np.linalg.norm(low.mean) / np.linalg.norm(high.mean)
    assert cosine == pytest.approx(1)
    published = make_data(BenchmarkDataConfig(edition="small"), seed=3)
    assert np.linalg.norm(published.offset) == pytest.approx(0.5)


def test_what_is_written_for_saelens_names_every_feature_of_the_trees_once(tmp_path: Path) -> None:
    write_synthetic_model(make_data(BenchmarkDataConfig(edition="small", gamma=2.0), seed=3), tmp_path)
    nodes = json.loads((tmp_path / "hierarchy.json").read_text())["roots"]
    seen = []
    while nodes:
        node = nodes.pop()
        seen.append(node["feature_index"])
        nodes += node["children"]
    assert sorted(seen) == list(range(8 * 85))


def test_data_that_saelens_cannot_express_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only the data of a BenchmarkDataConfig can be written for SAELens"):
        write_synthetic_model(make_data(SyntheticConfig(), seed=0), tmp_path)
