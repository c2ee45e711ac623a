from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.config.schema import Preprocessing
from saelib.errors import UserError
from saelib.preprocess import layer_norm, make_preprocess

NAMES: tuple[Preprocessing, ...] = get_args(Preprocessing)


def activations(tokens: int = 3000, d: int = 12, mean: float = 30.0, seed: int = 0) -> NDArray[np.float64]:
    """Correlated, with unequal variances and a large mean in some dimensions."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d)) * np.geomspace(0.3, 3, d)
    return rng.standard_normal((tokens, d)) @ mix + mean * rng.standard_normal(d)


def statistics(x: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    values, vectors = np.linalg.eigh(np.cov(x.T, ddof=0))
    return {
        "mean": x.mean(0),
        "std": x.std(0),
        "center_median": np.median(x, axis=0),
        "ln_center_median": np.median(layer_norm(x), axis=0),
        "eigenvalues": values[::-1],
        "eigenvectors": vectors[:, ::-1],
    }


def test_raw_changes_nothing() -> None:
    x = activations().astype(np.float32)
    np.testing.assert_array_equal(make_preprocess("raw", statistics(activations())).apply(x), x)


def test_centres_go_to_zero() -> None:
    x = activations()
    arrays = statistics(x)
    np.testing.assert_allclose(make_preprocess("center_mean", arrays).apply(x).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.median(make_preprocess("center_median", arrays).apply(x), axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.median(make_preprocess("ln_center", arrays).apply(x), axis=0), 0, atol=1e-6)


def test_zscore_gives_unit_variances() -> None:
    x = activations()
    z = make_preprocess("zscore", statistics(x)).apply(x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.corrcoef(z.T), np.corrcoef(x.T), atol=1e-5)


def test_pca_gives_the_identity_covariance() -> None:
    x = activations()
    z = make_preprocess("pca", statistics(x)).apply(x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(z.T, ddof=0), np.eye(x.shape[1]), atol=1e-4)


def test_pca_does_not_depend_on_the_basis() -> None:
    """Distances between whitened tokens (Mahalanobis) survive any invertible map of the activations."""
    x = activations(tokens=500)
    y = x @ (np.random.default_rng(1).standard_normal((12, 12)) + 3 * np.eye(12)) + 5
    for a, b in ((x, y), (x, x @ np.linalg.qr(activations(12))[0])):
        za = make_preprocess("pca", statistics(a)).apply(a).astype(np.float64)
        zb = make_preprocess("pca", statistics(b)).apply(b).astype(np.float64)
        np.testing.assert_allclose(za @ za.T, zb @ zb.T, atol=1e-2)


def test_pca_drops_directions_without_variance() -> None:
    x = activations()[:, :7] @ np.random.default_rng(1).standard_normal((7, 12))
    preprocess = make_preprocess("pca", statistics(x))
    assert (preprocess.d_in, preprocess.d_out) == (12, 7)
    np.testing.assert_allclose(np.cov(preprocess.apply(x).T, ddof=0), np.eye(7), atol=1e-4)


def test_zscore_sets_constant_dimensions_to_zero() -> None:
    x = activations()
    x[:, 3] = 100.0
    x[:, 4] = 100.0 + 1e-9 * np.random.default_rng(0).standard_normal(len(x))
    preprocess = make_preprocess("zscore", statistics(x))
    z = preprocess.apply(x + 1)
    assert not z[:, 3:5].any()
    np.testing.assert_allclose(np.delete(z, [3, 4], axis=1).std(0), 1, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_offset_is_the_same_as_the_sum(name: Preprocessing) -> None:
    x = activations()
    preprocess = make_preprocess(name, statistics(x))
    offset = x[:50].mean(0).astype(np.float32)
    stored = x - offset
    apart, whole = preprocess.apply(stored, offset), preprocess.apply(x)
    np.testing.assert_allclose(apart, whole, rtol=1e-5, atol=1e-4)
    assert (apart.dtype, whole.dtype) == (np.float32, np.float32)
    assert apart.shape == (x.shape[0], preprocess.d_out)


@pytest.mark.parametrize("name", ["center_mean", "center_median", "zscore", "pca", "ln_center"])
def test_a_huge_mean_costs_no_precision(name: Preprocessing) -> None:
    """At gamma 1e6 float32 sums would keep about 5 bits of the signal; kept apart they keep them all."""
    small = activations(mean=0).astype(np.float32)
    offset = np.full(12, 0, dtype=np.float32)
    offset[2] = 2**22
    x = small.astype(np.float64) + offset
    preprocess = make_preprocess(name, statistics(x))
    exact = (layer_norm(x) if preprocess.layernorm else x) - preprocess.center
    if preprocess.scale is not None:
        scale = preprocess.scale.astype(np.float64)
        exact = exact * scale if scale.ndim == 1 else exact @ scale
    np.testing.assert_allclose(preprocess.apply(small, offset), exact, atol=2e-5 * np.abs(exact).max())


def test_float16_rows_are_read_exactly() -> None:
    x = activations(mean=0).astype(np.float16)
    center = make_preprocess("center_mean", statistics(activations()))
    np.testing.assert_array_equal(center.apply(x), center.apply(x.astype(np.float64)))


def test_layer_norm_forgets_scale_and_mean_of_a_token() -> None:
    x = activations()
    per_token = np.random.default_rng(0).uniform(1, 9, (len(x), 1))
    np.testing.assert_allclose(layer_norm(per_token * x + per_token), layer_norm(x), atol=1e-4)
    np.testing.assert_allclose(layer_norm(x).mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(layer_norm(x, eps=0).var(1), 1, rtol=1e-12)
    assert not layer_norm(np.full((2, 5), 7.0)).any()


def test_layer_norm_leaves_its_input_alone() -> None:
    x = activations()
    before = x.copy()
    layer_norm(x)
    for name in NAMES:
        make_preprocess(name, statistics(x)).apply(x)
    np.testing.assert_array_equal(x, before)


def test_missing_statistics_are_named() -> None:
    with pytest.raises(UserError, match=r"'zscore' needs 'std'.*they hold: \['mean'\]"):
        make_preprocess("zscore", {"mean": np.ones(3)})


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match="allowed: raw, center_median"):
        make_preprocess("whiten", {"mean": np.ones(3)})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["zscore", "pca"])
def test_constant_activations_are_refused(name: Preprocessing) -> None:
    with pytest.raises(UserError, match="constant"):
        make_preprocess(name, statistics(np.ones((10, 3))))


def test_nan_in_statistics_is_refused() -> None:
    with pytest.raises(UserError, match="'center_median' of the statistics holds NaN"):
        make_preprocess("center_median", {"center_median": np.array([1.0, np.nan])})
