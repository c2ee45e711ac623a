"""Each preprocessing obeys its law, and can be undone."""

from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.config import VariantConfig
from saelib.config.preprocessings import PreprocessingName
from saelib.errors import UserError
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.transform import Preprocessing, layer_norm

NAMES: tuple[PreprocessingName, ...] = get_args(PreprocessingName)
OPTIONS: list[Any] = [*NAMES, {"kind": "partial_pca", "alpha": 0.3}, "active_subspace"]
"""Lists every preprocessing, as a suite names it."""


def activations(tokens: int = 3000, d: int = 12, mean: float = 30.0, seed: int = 0) -> NDArray[np.float64]:
    """Draws correlated rows with unequal variances and a large mean in some dimensions."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d)) * np.geomspace(0.3, 3, d)
    return rng.standard_normal((tokens, d)) @ mix + mean * rng.standard_normal(d)


def statistics(x: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    values, vectors = np.linalg.eigh(np.cov(x.T, ddof=0))
    return {
        "mean": x.mean(0),
        "std": x.std(0),
        "center_median": np.median(x, axis=0) + 0.1,
        "center_coordinate_median": np.median(x, axis=0),
        "center_trimmed_mean": x.mean(0) - 0.1,
        "ln_center_median": np.median(layer_norm(x), axis=0),
        "eigenvalues": values[::-1],
        "eigenvectors": vectors[:, ::-1],
    }


def fitted(options: Any, x: NDArray[np.float64]) -> Preprocessing:
    """Parses the value of `preprocessing` in a suite."""
    return make_preprocessing(VariantConfig(preprocessing=options).preprocessing, statistics(x))


def test_raw_changes_nothing() -> None:
    x = activations().astype(np.float32)
    np.testing.assert_array_equal(fitted("raw", activations()).apply(x), x)


def test_centers_go_to_zero() -> None:
    x = activations()
    for name in ("center_mean", "center_median", "center_coordinate_median", "center_trimmed_mean"):
        center = statistics(x)["mean" if name == "center_mean" else name]
        np.testing.assert_allclose(fitted(name, x).apply(center[None]), 0, atol=1e-12)
        np.testing.assert_allclose(fitted(name, x).apply(x), x - center, atol=1e-5)
    np.testing.assert_allclose(np.median(fitted("ln_center", x).apply(x), axis=0), 0, atol=1e-6)


def test_token_norms_are_their_definitions() -> None:
    x = activations()
    np.testing.assert_allclose(fitted("layernorm", x).apply(x), layer_norm(x), atol=1e-6)
    rescaled = fitted("rescale", x).apply(x).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(rescaled, axis=1), np.sqrt(12), rtol=1e-6)
    np.testing.assert_allclose(rescaled * np.linalg.norm(x, axis=1, keepdims=True), np.sqrt(12) * x, rtol=1e-5)
    assert not fitted("rescale", x).apply(np.zeros((3, 12))).any()


def test_zscore_gives_unit_variances() -> None:
    x = activations()
    z = fitted("zscore", x).apply(x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.corrcoef(z.T), np.corrcoef(x.T), atol=1e-5)


def test_pca_gives_the_identity_covariance() -> None:
    x = activations()
    z = fitted("pca", x).apply(x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(z.T, ddof=0), np.eye(x.shape[1]), atol=1e-4)


def test_pca_does_not_depend_on_the_basis() -> None:
    """Distances between whitened tokens (Mahalanobis) survive any invertible map of the activations."""
    x = activations(tokens=500)
    y = x @ (np.random.default_rng(1).standard_normal((12, 12)) + 3 * np.eye(12)) + 5
    for a, b in ((x, y), (x, x @ np.linalg.qr(activations(12))[0])):
        za, zb = (fitted("pca", data).apply(data).astype(np.float64) for data in (a, b))
        np.testing.assert_allclose(za @ za.T, zb @ zb.T, atol=1e-2)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_partial_whitening_raises_the_spectrum_to_a_power(alpha: float) -> None:
    x = activations()
    z = fitted({"kind": "partial_pca", "alpha": alpha}, x).apply(x)
    expected = np.diag(statistics(x)["eigenvalues"] ** (1 - alpha))
    np.testing.assert_allclose(np.cov(z.T, ddof=0), expected, atol=1e-4 * expected.max())
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)


def test_partial_whitening_runs_from_centering_to_pca() -> None:
    x = activations()
    centered, rotated = x - x.mean(0), fitted({"kind": "partial_pca", "alpha": 0}, x).apply(x).astype(np.float64)
    np.testing.assert_allclose(rotated @ rotated.T, centered @ centered.T, rtol=1e-4, atol=1e-3)
    whole = fitted({"kind": "partial_pca", "alpha": 1}, x)
    np.testing.assert_array_equal(whole.apply(x), fitted("pca", x).apply(x))


def test_pca_drops_directions_without_variance() -> None:
    x = activations()[:, :7] @ np.random.default_rng(1).standard_normal((7, 12))
    preprocess = fitted("pca", x)
    assert (preprocess.d_in, preprocess.d_out) == (12, 7)
    np.testing.assert_allclose(np.cov(preprocess.apply(x).T, ddof=0), np.eye(7), atol=1e-4)
    np.testing.assert_allclose(preprocess.restore(preprocess.apply(x), x), x, atol=1e-4)


def test_zscore_sets_constant_dimensions_to_zero() -> None:
    x = activations()
    x[:, 3] = 100.0
    x[:, 4] = 100.0 + 1e-9 * np.random.default_rng(0).standard_normal(len(x))
    preprocess = fitted("zscore", x)
    z = preprocess.apply(x + 1)
    assert not z[:, 3:5].any()
    np.testing.assert_allclose(np.delete(z, [3, 4], axis=1).std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(preprocess.restore(preprocess.apply(x), x), x, rtol=1e-5, atol=1e-5)


def test_the_active_subspace_holds_the_most_variance() -> None:
    x = activations()
    for options, rank in (("active_subspace", 6), ({"kind": "active_subspace", "rank": 4}, 4)):
        preprocess = fitted(options, x)
        np.testing.assert_array_equal(preprocess.apply(x), fitted("center_median", x).apply(x))
        assert preprocess.subspace is not None
        basis = preprocess.subspace.astype(np.float64)
        np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-5)
        assert (x @ basis).var(0).sum() == pytest.approx(statistics(x)["eigenvalues"][:rank].sum(), rel=1e-4)


def test_a_subspace_cannot_be_larger_than_the_activations() -> None:
    flat = activations()[:, :3] @ np.random.default_rng(1).standard_normal((3, 12))
    with pytest.raises(UserError, match="rank 4 is more than the 3 directions"):
        fitted({"kind": "active_subspace", "rank": 4}, flat)
    subspace = fitted("active_subspace", flat).subspace
    assert subspace is not None
    assert subspace.shape == (12, 3)  # half of 12 dimensions would hold nothing


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_was_applied_can_be_restored(options: Any) -> None:
    """The way back is exact: it restores a token's own norm and mean too."""
    x = activations() * np.random.default_rng(3).uniform(0.1, 20, (3000, 1))
    preprocess = fitted(options, x)
    np.testing.assert_allclose(preprocess.restore(preprocess.apply(x), x), x, rtol=2e-6, atol=2e-4)
    # and what is restored of something else is its image under the inverse map, token by token
    other = preprocess.restore(2 * preprocess.apply(x) - preprocess.apply(x)[::-1], x)
    np.testing.assert_allclose(preprocess.restore(preprocess.apply(x)[::-1], x) + other, 2 * x, rtol=1e-4, atol=2e-3)


def test_zeros_survive_a_rescaling() -> None:
    x = np.zeros((2, 12))
    preprocess = fitted("rescale", activations())
    assert not preprocess.restore(preprocess.apply(x), x).any()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_center_before_a_scale_stays_and_another_becomes_the_bias(options: Any) -> None:
    x = activations()
    whole = fitted(options, x)
    rows, bias = whole.without_center()
    np.testing.assert_allclose(rows.apply(x) - bias, whole.apply(x), atol=1e-4)
    np.testing.assert_allclose(rows.restore(rows.apply(x), x), x, rtol=2e-6, atol=2e-4)
    assert bias.shape == (whole.d_out,)
    assert rows.scale is None or not bias.any()
    assert rows.scale is not None or not rows.center.any()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_offset_is_the_same_as_the_sum(options: Any) -> None:
    x = activations()
    preprocess = fitted(options, x)
    offset = x[:50].mean(0).astype(np.float32)
    apart, whole = preprocess.apply(x - offset, offset), preprocess.apply(x)
    np.testing.assert_allclose(apart, whole, rtol=1e-5, atol=1e-4)
    assert (apart.dtype, whole.dtype) == (np.float32, np.float32)
    assert apart.shape == (x.shape[0], preprocess.d_out)


@pytest.mark.parametrize("name", ["center_mean", "center_median", "zscore", "pca", "ln_center"])
def test_a_huge_mean_costs_no_precision(name: PreprocessingName) -> None:
    """At gamma 1e6 float32 sums would keep about 5 bits of the signal; kept apart they keep them all."""
    small = activations(mean=0).astype(np.float32)
    offset = np.full(12, 0, dtype=np.float32)
    offset[2] = 2**22
    x = small.astype(np.float64) + offset
    preprocess = fitted(name, x)
    exact = (layer_norm(x) if preprocess.token_norm == "layernorm" else x) - preprocess.center
    if preprocess.scale is not None:
        scale = preprocess.scale.astype(np.float64)
        exact = exact * scale if scale.ndim == 1 else exact @ scale
    np.testing.assert_allclose(preprocess.apply(small, offset), exact, atol=2e-5 * np.abs(exact).max())


def test_float16_rows_are_read_exactly() -> None:
    x = activations(mean=0).astype(np.float16)
    for name in ("center_mean", "layernorm", "rescale"):
        preprocess = fitted(name, activations())
        np.testing.assert_array_equal(preprocess.apply(x), preprocess.apply(x.astype(np.float64)))


def test_layer_norm_forgets_scale_and_mean_of_a_token() -> None:
    x = activations()
    per_token = np.random.default_rng(0).uniform(1, 9, (len(x), 1))
    np.testing.assert_allclose(layer_norm(per_token * x + per_token), layer_norm(x), atol=1e-4)
    np.testing.assert_allclose(layer_norm(x).mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(layer_norm(x).var(1), x.var(1) / (x.var(1) + 1e-5), rtol=1e-12)
    assert not layer_norm(np.full((2, 5), 7.0)).any()


def test_the_activations_are_left_alone() -> None:
    x = activations()
    before = x.copy()
    layer_norm(x)
    for options in OPTIONS:
        preprocess = fitted(options, x)
        preprocess.restore(preprocess.apply(x), x)
    np.testing.assert_array_equal(x, before)


def test_missing_statistics_are_named() -> None:
    with pytest.raises(UserError, match=r"gpt2 layer 3: .*'zscore' needs 'std'.*they hold: mean$"):
        make_preprocessing("zscore", {"mean": np.ones(3)}, name="gpt2 layer 3")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match="allowed: raw, center_median"):
        make_preprocessing("whiten", {"mean": np.ones(3)})  # pyright: ignore[reportArgumentType]


def test_auto_is_no_preprocessing_yet() -> None:
    with pytest.raises(UserError, match="'auto' must be chosen first"):
        fitted("auto", activations())


@pytest.mark.parametrize("name", ["zscore", "pca"])
def test_constant_activations_are_refused(name: PreprocessingName) -> None:
    with pytest.raises(UserError, match="constant"):
        make_preprocessing(name, statistics(np.ones((10, 3))))


def test_nan_in_statistics_is_refused() -> None:
    with pytest.raises(UserError, match="'center_median' of the statistics holds NaN"):
        make_preprocessing("center_median", {"center_median": np.array([1.0, np.nan])})


def test_a_covariance_needs_more_tokens_than_dimensions() -> None:
    arrays = statistics(activations(tokens=12))
    for options in ("pca", {"kind": "partial_pca", "alpha": 0.1}):
        config = VariantConfig.model_validate({"preprocessing": options}).preprocessing
        with pytest.raises(UserError, match=r"toy: .*: 12 training tokens .* 12 dimensions; whitening needs 13"):
            make_preprocessing(config, arrays, tokens=12, name="toy")
        make_preprocessing(config, arrays, tokens=13)
    centered = VariantConfig.model_validate({"preprocessing": {"kind": "partial_pca", "alpha": 0}}).preprocessing
    make_preprocessing(centered, arrays, tokens=12)
