import numpy as np
import pytest

from saelib.errors import UserError
from saelib.synthetic.features import sparse_features


@pytest.mark.parametrize(("gamma", "shape"), [(0.0, (50, 100, 5)), (7.0, (20, 8, 3)), (1.0, (10, 30, 1))])
def test_moments_are_those_of_the_samples(gamma: float, shape: tuple[int, int, int]) -> None:
    d_in, n_features, active = shape
    source = sparse_features(gamma, seed=3, d_in=d_in, n_features=n_features, active=active)
    x = source.sample(200_000, np.random.default_rng(0)).astype(np.float64)
    error = source.signal_norm / np.sqrt(len(x))
    assert np.linalg.norm(x.mean(axis=0) - source.mean) < 4 * error
    assert np.sqrt(x.var(axis=0).sum()) == pytest.approx(source.signal_norm, rel=0.01)
    measured = np.linalg.norm(x.mean(axis=0)) / np.sqrt(x.var(axis=0).sum())
    assert measured == pytest.approx(source.gamma, rel=0.01, abs=0.01)


def test_published_moments() -> None:
    norms = [sparse_features(0, seed=seed).signal_norm for seed in range(20)]
    assert np.mean(norms) == pytest.approx(3.13, abs=0.03)
    assert np.mean([sparse_features(0, seed=seed).gamma for seed in range(20)]) == pytest.approx(0.2, abs=0.03)
    assert sparse_features(40, seed=0).gamma == pytest.approx(40, rel=0.01)


def test_every_token_is_a_sum_of_exactly_the_active_features() -> None:
    source = sparse_features(0, seed=0, d_in=60, n_features=40, active=4)
    x = source.sample(500, np.random.default_rng(1))
    a = np.linalg.lstsq(source.features.T, x.T.astype(np.float64), rcond=None)[0].T
    present = a > 0.25
    assert (present.sum(axis=1) == 4).all()
    assert a[present].min() > 0.499
    assert np.abs(a[~present]).max() < 1e-4
    assert present.mean(axis=0).min() > 0.02  # every feature has its turn: 4 of 40 on 500 tokens


def test_same_seed_same_bits() -> None:
    a, b = (sparse_features(2, seed=5).sample(100, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{"active": 0}, {"active": 101}, {"gamma": -1.0}])
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="gamma must be 0 or more, n_features at least 2"):
        sparse_features(**({"gamma": 1.0, "seed": 0} | options))  # pyright: ignore[reportArgumentType]
