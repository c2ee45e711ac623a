"""Laws for any activations: invariances, limits, closed forms."""

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saelib.activations.rows import ArrayRows
from saelib.stats import LayerStats, compute_stats
from saelib.stats.compute import effective_rank
from saelib.stats.kernels import decode_half
from saelib.stats.medians import MAX_SORTED, coordinate_centers
from saelib.stats.moments import Moments, plan_pass
from saelib.stats.slabs import open_slabs


def activations(tokens: int = 6000, d_in: int = 32, gamma: float = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, d_in)) * np.arange(1, d_in + 1) ** -0.4
    return x + gamma * np.linalg.norm(x.std(0)) * rng.standard_normal(d_in) / np.sqrt(d_in)


def stats_of(x: np.ndarray, workers: int = 1, block_rows: int = 4096) -> LayerStats:
    return compute_stats(ArrayRows(x, block_rows=block_rows), workers=workers)


def test_length_of_a_token_does_not_matter_to_gamma_after_normalization() -> None:
    x = activations()
    lengths = np.random.default_rng(1).lognormal(0, 1, (len(x), 1)) * 1e3
    before, after = stats_of(x * 1e3), stats_of(x * lengths)
    # eps = 1e-5 beside a variance of 1e5 leaves LayerNorm scale-free to 1e-10.
    assert after.gamma == pytest.approx(before.gamma, rel=1e-6)
    assert after.gamma_unit == pytest.approx(before.gamma_unit, rel=1e-6)
    assert after.effective_rank == pytest.approx(before.effective_rank, rel=1e-6)
    assert after.gamma_raw != pytest.approx(before.gamma_raw, rel=0.1)


def test_rotation_does_not_matter_to_what_is_measured_without_layer_norm() -> None:
    x = activations()
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((32, 32)))[0]
    before, after = stats_of(x), stats_of(x @ rotation)
    assert after.gamma_raw == pytest.approx(before.gamma_raw, rel=1e-6)
    assert after.gamma_unit == pytest.approx(before.gamma_unit, rel=1e-6)
    assert effective_rank(after.arrays["eigenvalues"]) == pytest.approx(
        effective_rank(before.arrays["eigenvalues"]), rel=1e-6
    )
    sigma = before.sigma
    turned = before.arrays["center_median"] @ rotation
    assert np.linalg.norm(after.arrays["center_median"] - turned) < 1e-6 * sigma


def test_unit_of_measurement_does_not_matter() -> None:
    x = activations()
    before, after = stats_of(x), stats_of(x * 1e7)
    for name in ("gamma_raw", "gamma_unit", "excess_kurtosis"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-6, abs=1e-6), name
    assert after.norm_ratio == pytest.approx(before.norm_ratio, rel=2e-3)  # bins of 0.2 %
    assert after.sigma == pytest.approx(before.sigma * 1e7, rel=1e-6)
    for name in ("mean", "std", "center_median", "center_coordinate_median", "center_trimmed_mean"):
        np.testing.assert_allclose(after.arrays[name], before.arrays[name] * 1e7, rtol=1e-6, atol=1e-6 * after.sigma)


def test_an_offset_along_the_ones_is_seen_by_gamma_unit_and_not_by_gamma() -> None:
    x = activations(gamma=0.5)
    shifted = x + 20
    assert stats_of(shifted).gamma == pytest.approx(stats_of(x).gamma, rel=1e-4)  # eps apart
    assert stats_of(shifted).gamma_unit > 10 * stats_of(x).gamma_unit
    assert any("gamma_unit predicts their death" in warning for warning in stats_of(shifted).warnings)
    assert not any("disagree" in warning for warning in stats_of(x).warnings)


def test_gammas_that_predict_no_death_need_no_warning_where_they_disagree() -> None:
    x = np.random.default_rng(0).standard_normal((6000, 32)) + 0.1
    stats = stats_of(x)
    assert stats.gamma_unit > 2 * stats.gamma
    assert not any("disagree" in warning for warning in stats.warnings)


@given(seed=st.integers(0, 2**32 - 1), parts=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_any_split_merged_in_any_order_gives_the_same(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    slabs = open_slabs(ArrayRows(activations(1000, 16, gamma=1000).astype(np.float32)))
    plan = plan_pass(slabs, whitening=True)
    whole = Moments(plan)
    whole.add(slabs.read(0, 1000), 0)
    cuts = [0, *sorted(rng.choice(np.arange(1, 1000), parts - 1, replace=False)), 1000]
    states = []
    for start, stop in pairwise(cuts):
        states.append(Moments(plan))
        states[-1].add(slabs.read(int(start), int(stop)), int(start))
    merged, *others = [states[i] for i in rng.permutation(parts)]
    for other in others:
        merged.merge(other)
    assert merged.tokens == 1000
    assert np.array_equal(merged.norm_counts, whole.norm_counts)
    assert merged.max_norm == whole.max_norm
    for kind in (0, 1, 2):
        assert merged.gamma(kind) == pytest.approx(whole.gamma(kind), rel=1e-7)
    for kind in (0, 1):
        expected = whole.covariance(kind)
        np.testing.assert_allclose(merged.covariance(kind), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(merged.excess_kurtosis(), whole.excess_kurtosis(), rtol=1e-5, atol=1e-5)


def test_workers_do_not_change_a_bit() -> None:
    x = activations(60_000, 24).astype(np.float16)
    alone, together = stats_of(x, workers=1, block_rows=256), stats_of(x, workers=3, block_rows=256)
    scalars, expected = asdict(together), asdict(alone)
    arrays = scalars.pop("arrays"), expected.pop("arrays")
    assert scalars == expected
    for name, array in arrays[1].items():
        assert np.array_equal(arrays[0][name], array), name


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.3])
def test_contamination_moves_the_geometric_median_as_predicted(share: float) -> None:
    """A share eps of tokens, however far away, moves it by ||sigma|| r / sqrt(1 - r^2), r = eps / (1 - eps)."""
    half = np.random.default_rng(0).standard_normal((4000, 200))
    x = np.concatenate([half, -half])  # whose median is 0 whatever was drawn
    far = np.zeros((round(len(x) * share / (1 - share)), 200))
    far[:, 5] = 1e6
    arrays = stats_of(np.concatenate([x, far])).arrays
    ratio = len(far) / len(x)
    predicted = ratio / np.sqrt(1 - ratio**2)
    assert np.linalg.norm(arrays["center_median"]) / np.linalg.norm(x.std(0)) == pytest.approx(predicted, rel=0.01)
    assert np.linalg.norm(arrays["mean"]) / np.linalg.norm(x.std(0)) > 100 * predicted


def test_most_tokens_alike_are_the_geometric_median() -> None:
    x = activations(1000, 8)
    x[:600] = x[0]
    arrays = stats_of(x).arrays
    np.testing.assert_allclose(arrays["center_median"], x[0], rtol=1e-6)
    normed = (x[0] - x[0].mean()) / np.sqrt(x[0].var() + 1e-5)
    np.testing.assert_allclose(arrays["ln_center_median"], normed, rtol=0, atol=1e-6)


def test_a_token_at_the_start_does_not_hold_the_geometric_median() -> None:
    """The coordinate-wise median is a token here, where plain Weiszfeld would stay for ever."""
    x = np.array([[0.0, 0, 0], [9, 1, -1], [-1, 8, -1], [-1, -1, 7], [1, -2, 2]])
    center = stats_of(x).arrays["center_median"]
    assert np.array_equal(stats_of(x).arrays["center_coordinate_median"], x[0])
    assert np.linalg.norm(center) > 1e-3
    toward = x - center
    assert np.linalg.norm((toward / np.linalg.norm(toward, axis=1, keepdims=True)).sum(0)) < 1e-6


def test_a_token_in_the_middle_of_all_others_is_the_geometric_median() -> None:
    """There all pulls cancel, and a step would be 0 / 0."""
    x = np.concatenate([np.zeros((1, 4)), np.diag([1.0, 2, 3, 4]), -np.diag([1.0, 2, 3, 4])])
    assert np.array_equal(stats_of(x).arrays["center_median"], np.zeros(4))


def test_known_shapes_have_their_kurtosis() -> None:
    rng = np.random.default_rng(3)
    n = 200_000
    x = np.stack([rng.normal(size=n), rng.uniform(size=n), rng.laplace(size=n), rng.integers(2, size=n)], axis=1)
    np.testing.assert_allclose(stats_of(x + 50).arrays["excess_kurtosis"], [0, -1.2, 3, -2], atol=0.15)


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_equal_directions_count_one_each(rank: int) -> None:
    assert effective_rank(np.array([5.0] * rank + [0.0] * 20)) == pytest.approx(rank)


def test_rounding_errors_count_for_no_rank() -> None:
    assert effective_rank(np.array([1.0] + [5e-13] * 1000 + [-5e-13] * 1000)) == pytest.approx(1, abs=1e-9)


def test_every_float16_is_decoded_exactly() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    decoded = np.empty(halves.shape, np.float32)
    decode_half(halves.view(np.uint16), np.float32(0.25), decoded)
    with np.errstate(invalid="ignore"):  # signalling NaN
        expected = halves.astype(np.float32) / 4
    np.testing.assert_array_equal(decoded, np.where(np.isinf(expected), np.nan, expected))


def test_gamma_is_the_one_that_was_put_in() -> None:
    for gamma in (0.1, 1, 30, 3000):
        x = np.random.default_rng(4).standard_normal((20_000, 64))
        x = (x - x.mean(0)) / x.std(0)
        x[:, 11] += gamma * 8
        stats = stats_of(x)
        assert stats.gamma_raw == pytest.approx(gamma, rel=1e-6)
        if gamma >= 30:  # x / ||x|| is then the deviation across the mean, which has 63 of 64 dimensions
            assert stats.gamma_unit == pytest.approx(gamma * np.sqrt(64 / 63), rel=2e-3)


def test_long_arrays_are_sorted_by_a_spread_of_their_tokens() -> None:
    """Beyond 2^17 tokens: the median of a drifting column is that of the whole, not of its beginning."""
    tokens = 3 * MAX_SORTED
    drift = np.linspace(-1, 1, tokens, dtype=np.float32)
    x = np.stack([drift, drift**3 + 7], axis=1)
    slabs = open_slabs(ArrayRows(x, block_rows=1024))
    assert sum(stop - start for start, stop in slabs.spread(MAX_SORTED)) <= MAX_SORTED
    median, trimmed = coordinate_centers(slabs, workers=1)
    np.testing.assert_allclose(median / slabs.scale, [0, 7], atol=0.02)
    np.testing.assert_allclose(trimmed / slabs.scale, [0, 7], atol=0.02)
