"""The moments of the data are those of large samples, and gamma is exact whatever the offset."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from saelib.config.synthetic import SyntheticConfig
from saelib.errors import UserError
from saelib.synthetic import SyntheticData, make_data

LOW_RANK = {"d_in": 64, "n_features": 128, "low_rank": 4, "low_rank_share": 0.95}
VARIED: list[dict[str, Any]] = [
    {},
    {"d_in": 20, "n_features": 8, "active": 3, "gamma": 7.0},
    {"d_in": 10, "n_features": 30, "active": 1, "gamma": 1.0, "outlier_dimensions": 4},
    {"d_in": 30, "n_features": 9, "active": 9, "gamma": 6.0, "rotated": True, "signal_scale": 3.0},
    {"tails": "student_t", "degrees_of_freedom": 9.0, "gamma": 3.0},
    {"tails": "mixture", "wide_share": 0.2, "gamma": 3.0},
    {**LOW_RANK, "gamma": 2.0, "tails": "mixture"},
]


def data(seed: int = 3, **settings: Any) -> SyntheticData:
    return make_data(SyntheticConfig(**settings), seed)


def sample(source: SyntheticData, tokens: int, seed: int = 0) -> NDArray[np.float64]:
    return source.sample(tokens, np.random.default_rng(seed)).astype(np.float64)


@pytest.mark.parametrize("settings", VARIED)
def test_moments_are_those_of_samples(settings: dict[str, Any]) -> None:
    source = data(**settings)
    x = sample(source, 200_000)
    deviations = (x.mean(axis=0) - source.mean) / (x.std(axis=0) / np.sqrt(len(x)))
    assert np.abs(deviations).max() < 5  # standard errors, of at most 64 coordinates
    squares = (x - source.mean) ** 2
    for found, each in ((squares.sum(axis=1), source.signal_norm**2), (squares, np.diag(covariance(source)))):
        error = found.std(axis=0) / np.sqrt(len(x))
        assert (np.abs(found.mean(axis=0) - each) / error).max() < 5


def covariance(source: SyntheticData) -> NDArray[np.float64]:
    return source.scale**2 * source.source.covariance  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("settings", [{"active": 7}, {"n_features": 6, "active": 5, "d_in": 4}, LOW_RANK])
def test_covariances_of_coordinates_are_those_of_samples(settings: dict[str, Any]) -> None:
    source = data(**settings)
    x = sample(source, 100_000) - source.mean
    exact = covariance(source)
    # The product of two coordinates varies by no more than if they were normal, times a little for their kurtosis.
    errors = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / len(x))
    assert (np.abs(x.T @ x / len(x) - exact) / errors).max() < 7


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0, 20.0, 100.0])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"outlier_dimensions": 7},
        {"rotated": True},
        {"signal_scale": 0.01},
        {"signal_scale": 30.0, "tails": "student_t"},
        LOW_RANK,
    ],
)
def test_gamma_is_exact(gamma: float, settings: dict[str, Any]) -> None:
    source = data(gamma=gamma, **settings)
    assert source.gamma == pytest.approx(gamma, rel=1e-12, abs=1e-12)
    x = sample(source, 20_000)
    sigma = np.sqrt(x.var(axis=0).sum())
    assert np.linalg.norm(x.mean(axis=0)) / sigma == pytest.approx(gamma, rel=0.04, abs=4 / np.sqrt(len(x)))


def test_the_mean_lies_where_it_is_said_to() -> None:
    one = data(gamma=5.0).mean
    assert one[0] > 0
    np.testing.assert_allclose(one[1:], 0, atol=1e-12)
    several = data(gamma=5.0, outlier_dimensions=4).mean
    assert several[0] > 0
    np.testing.assert_allclose(several[:4], several[0])
    np.testing.assert_allclose(several[4:], 0, atol=1e-12)
    rotated = data(gamma=5.0, rotated=True).mean
    assert np.abs(rotated).max() < 0.6 * np.linalg.norm(rotated)


def test_an_offset_of_a_given_length_leaves_the_features_their_mean() -> None:
    plain = data(signal_scale=2.0)
    assert not plain.offset.any()
    moved = data(offset_norm=12.0, signal_scale=2.0)
    np.testing.assert_allclose(moved.mean - plain.mean, 12 * np.eye(50)[0], atol=1e-12)


def test_the_signal_does_not_feel_the_offset() -> None:
    """SAEs of several gamma can share one stream."""
    plain = data().signal(3000, np.random.default_rng(1))
    offsets: list[dict[str, Any]] = [
        {"gamma": 40.0},
        {"gamma": 2.0, "outlier_dimensions": 9},
        {"gamma": 3.0, "rotated": True},
    ]
    for settings in offsets:
        source = data(**settings, signal_scale=1.5)
        np.testing.assert_array_equal(source.signal(3000, np.random.default_rng(1)), plain)
        x = source.sample(3000, np.random.default_rng(1))
        np.testing.assert_array_equal(x, np.float32(1.5) * plain + source.offset.astype(np.float32))


def test_a_scaled_signal_with_its_offset_is_the_same_data_in_other_units() -> None:
    small, large = data(gamma=4.0), data(gamma=4.0, signal_scale=8.0)  # a power of two: no rounding
    np.testing.assert_array_equal(8 * sample(small, 100), sample(large, 100))
    assert large.signal_norm == pytest.approx(8 * small.signal_norm)
    kept = [data(offset_norm=30.0, signal_scale=scale).gamma for scale in (1.0, 0.5)]
    assert kept[1] == pytest.approx(2 * kept[0], rel=0.02)  # the features' own mean does not double


def test_published_moments() -> None:
    """||sigma|| 3.13 and gamma 0.2 at the paper's sizes."""
    assert np.mean([data(seed).signal_norm for seed in range(20)]) == pytest.approx(3.13, abs=0.03)
    assert np.mean([data(seed).gamma for seed in range(20)]) == pytest.approx(0.2, abs=0.03)


def test_every_token_is_a_sum_of_exactly_the_active_features() -> None:
    source = data(d_in=60, n_features=40, active=4)
    a = np.linalg.lstsq(source.features.T, sample(source, 4000).T)[0].T
    present = a > 0.25
    assert (present.sum(axis=1) == 4).all()
    assert a[present].min() > 0.499
    assert np.abs(a[~present]).max() < 1e-4
    # Every feature, and every pair, has its turn equally often.
    pairs = present.T.astype(float) @ present / len(present)
    once, twice = np.diag(pairs), pairs[np.triu_indices(40, 1)]
    assert np.abs(once - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / 4000)
    together = 4 * 3 / (40 * 39)
    assert np.abs(twice - together).max() < 5 * np.sqrt(together / 4000)


@pytest.mark.parametrize("settings", [{}, {"gamma": 4.0, "signal_scale": 2.0}, {**LOW_RANK, "low_rank_share": 0.3}])
def test_codes_are_the_features_in_the_tokens(settings: dict[str, Any]) -> None:
    source = data(**settings)
    x, codes = source.sample_with_codes(3000, np.random.default_rng(1))
    np.testing.assert_array_equal(x, source.sample(3000, np.random.default_rng(1)))
    dense = codes.dense(len(source.features))
    assert ((dense > 0).sum(axis=1) == 5).all()
    rest = x - source.offset - source.scale * dense @ source.features
    if "low_rank" in settings:
        assert np.linalg.matrix_rank(rest, tol=0.01) == settings["low_rank"]
    else:
        np.testing.assert_allclose(rest, 0, atol=1e-4)


@pytest.mark.parametrize("settings", VARIED)
def test_the_same_seeds_give_the_same_bits(settings: dict[str, Any]) -> None:
    first, second = (data(5, **settings).sample(2500, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (data(6, **settings).sample(2500, np.random.default_rng(1)) != first).any()
    assert (data(5, **settings).sample(2500, np.random.default_rng(2)) != first).any()


def test_a_stream_in_parts_is_the_stream() -> None:
    source, rng = data(gamma=2.0, tails="mixture"), np.random.default_rng(1)
    parts = np.concatenate([source.sample(tokens, rng) for tokens in (2048, 1024, 500)])
    np.testing.assert_array_equal(parts, source.sample(3572, np.random.default_rng(1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"active": 0}, "active"),
        ({"active": 101}, "active = 101 is larger than n_features = 100"),
        ({"gamma": -1.0}, "gamma"),
        ({"gamma": float("nan")}, "gamma"),
        ({"gamma": 1.0, "offset_norm": 2.0}, "exclude each other"),
        ({"outlier_dimensions": 51}, "only 50 of d_in = 50 coordinates"),
        ({"outlier_dimensions": 50, "contaminated": 0.1}, "only 49 of d_in = 50"),
        ({"signal_scale": 0.0}, "signal_scale"),
        ({"tails": "student_t", "degrees_of_freedom": 2.0}, "degrees_of_freedom"),
        ({"tails": "cauchy"}, "tails"),
        ({"low_rank": 50}, "low_rank = 50 is not below d_in = 50"),
        ({"low_rank": 2, "low_rank_share": 1.0}, "low_rank_share"),
        ({"contaminated": 1.0}, "contaminated"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SyntheticConfig(**settings)


def test_directions_that_hold_more_than_their_share_are_refused() -> None:
    with pytest.raises(UserError, match=r"low_rank_share = 0\.5: the 40 directions of low_rank already hold 0\.8"):
        data(low_rank=40, low_rank_share=0.5)
