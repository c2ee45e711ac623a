"""Heavy tails, low rank and contaminated tokens have the kurtosis, the rank and the share that they should."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.config.synthetic import SyntheticConfig
from saelib.synthetic import SyntheticData, make_data

TOKENS = 400_000


def data(**settings: Any) -> SyntheticData:
    return make_data(SyntheticConfig(**settings), seed=3)


def projections(source: SyntheticData, seed: int = 0) -> NDArray[np.float64]:
    """Projects large samples, less their mean, on eight directions that are always the same."""
    directions = np.random.default_rng(9).standard_normal((8, source.features.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (source.sample(TOKENS, np.random.default_rng(seed)) - source.mean) @ directions.T


def kurtosis(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x**4).mean(axis=0) / (x**2).mean(axis=0) ** 2


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"tails": "student_t", "degrees_of_freedom": 12.0}, 10 / 8),  # (nu - 2) / (nu - 4)
        ({"tails": "mixture", "wide_share": 0.1, "wide_ratio": 3.0}, (0.9 + 0.1 * 81) / (0.9 + 0.1 * 9) ** 2),
        ({"tails": "mixture", "wide_share": 0.5, "wide_ratio": 2.0}, (0.5 + 0.5 * 16) / (0.5 + 0.5 * 4) ** 2),
    ],
)
def test_tails_multiply_the_kurtosis_by_the_fourth_moment_of_their_factor(
    settings: dict[str, Any], factor: float
) -> None:
    plain, heavy = data(gamma=2.0), data(gamma=2.0, **settings)
    np.testing.assert_array_equal(plain.mean, heavy.mean)
    assert plain.signal_norm == heavy.signal_norm
    found = kurtosis(projections(heavy)) / kurtosis(projections(plain, seed=1))
    np.testing.assert_allclose(found, factor, rtol=0.04)
    assert found.mean() == pytest.approx(factor, rel=0.02)


def test_the_fewer_degrees_of_freedom_the_larger_the_largest_projection() -> None:
    largest = []
    for degrees in (100.0, 10.0, 5.0, 3.0):
        x = projections(data(tails="student_t", degrees_of_freedom=degrees))
        largest.append(np.median((np.abs(x) / x.std(axis=0)).max(axis=0)))
    assert (np.diff(largest) > 1).all()


@pytest.mark.parametrize(("rank", "share"), [(1, 0.5), (4, 0.99), (30, 0.9)])
def test_low_rank_directions_hold_their_share_and_leave_the_variance(rank: int, share: float) -> None:
    settings = {"d_in": 256, "n_features": 512, "active": 10}
    source, plain = data(**settings, low_rank=rank, low_rank_share=share), data(**settings)
    np.testing.assert_array_equal(source.features, plain.features)
    assert source.signal_norm == pytest.approx(plain.signal_norm, rel=1e-12)
    x = source.sample(20_000, np.random.default_rng(0)) - source.mean
    directions = source.source.dense.T  # pyright: ignore[reportAttributeAccessIssue]
    directions = directions / np.linalg.norm(directions, axis=0)
    leading = np.linalg.eigh(x.T @ x)[1][:, -rank:]
    in_directions, in_leading = (((x @ basis) ** 2).sum() / (x**2).sum() for basis in (directions, leading))
    assert in_directions == pytest.approx(share, abs=0.006)
    assert in_directions <= in_leading < share + 0.02


def test_four_of_256_directions_give_the_effective_rank_of_the_papers_flattest_layers() -> None:
    """About 1 % of the dimensions, at 99 % of the variance; exp(entropy) of the spectrum."""
    source = data(d_in=256, n_features=2048, active=16, low_rank=4)
    x = source.sample(20_000, np.random.default_rng(0)) - source.mean
    spectrum = np.linalg.eigvalsh(x.T @ x)
    p = spectrum / spectrum.sum()
    p = p[p > 1e-12]
    found = np.exp(-(p * np.log(p)).sum())
    # 99 % spread evenly over 4 directions and 1 % over the other 252.
    assert found == pytest.approx(np.exp(-0.99 * np.log(0.99 / 4) - 0.01 * np.log(0.01 / 252)), rel=0.02)
    assert 0.009 < found / 256 < 0.0185


@pytest.mark.parametrize("rotated", [False, True])
def test_contaminated_tokens_have_their_share_size_and_direction(rotated: bool) -> None:
    settings = {"gamma": 2.0, "rotated": rotated}
    clean, dirty = data(**settings), data(**settings, contaminated=0.03, contamination_size=50.0)
    np.testing.assert_array_equal(clean.mean, dirty.mean)
    assert dirty.gamma == pytest.approx(2)
    x = dirty.sample(50_000, np.random.default_rng(0)) - dirty.mean
    far = np.linalg.norm(x, axis=1) > 25 * dirty.signal_norm
    assert far.mean() == pytest.approx(0.03, abs=5 * np.sqrt(0.03 * 0.97 / 50_000))
    moved = x[far].mean(axis=0)
    error = dirty.signal_norm / np.sqrt(far.sum())
    assert np.linalg.norm(moved) == pytest.approx(50 * dirty.signal_norm, abs=5 * error)
    direction = moved / np.linalg.norm(moved)
    if rotated:
        assert np.abs(direction).max() < 0.6
    else:
        assert direction[-1] > 0.999
    assert np.linalg.norm(x[~far].mean(axis=0)) < 5 * dirty.signal_norm / np.sqrt(len(x))


def test_contamination_moves_the_geometric_median_as_the_closed_form_says() -> None:
    """By ||sigma|| r / sqrt(1 - r^2), r = eps / (1 - eps), however large the value. The mean moves without bound."""
    source = data(d_in=200, n_features=2000, active=50, contaminated=0.1, contamination_size=1000.0)
    x = source.sample(20_000, np.random.default_rng(0)).astype(np.float64)
    center = x.mean(axis=0)
    assert np.linalg.norm(center - source.mean) > 90 * source.signal_norm
    for _ in range(100):
        weights = 1 / np.linalg.norm(x - center, axis=1)
        center = weights @ x / weights.sum()
    r = 0.1 / 0.9
    assert np.linalg.norm(center - source.mean) / source.signal_norm == pytest.approx(r / np.sqrt(1 - r**2), rel=0.05)
