"""A token of zeros, or one at a center, has no pre-activation above zero, so it brings no latent to life."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.config.preprocessings import PartialWhitening, PreprocessingName
from saelib.init_death import product, trial
from saelib.init_death.measure import measure
from saelib.init_death.result import Death
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.transform import Preprocessing, layer_norm
from saelib.sae.kernels.cpu import why_unsupported
from saelib.stats import compute_stats

TOKENS, D, D_SAE, GAMMA = 3_000, 32, 256, 20.0
PRODUCTS = [
    product.BlasProduct,
    pytest.param(
        product.KernelProduct, marks=pytest.mark.skipif(why_unsupported() is not None, reason=str(why_unsupported()))
    ),
]


def outliers(gamma: float = GAMMA) -> NDArray[np.float32]:
    """Draws isotropic tokens about a mean of the given severity, on float16's grid, so a store holds them exactly."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(D)
    x = rng.standard_normal((TOKENS, D)) + gamma * np.sqrt(D) * direction / np.linalg.norm(direction)
    return x.astype(np.float32)


def fitted(x: NDArray[np.float32]) -> dict[str, Preprocessing]:
    arrays = compute_stats(ArrayRows(x)).arrays
    plain = {name: make_preprocessing(name, arrays) for name in get_args(PreprocessingName)}
    return plain | {"partial_pca": make_preprocessing(PartialWhitening(kind="partial_pca", alpha=0.5), arrays)}


def at_center(preprocess: Preprocessing) -> NDArray[np.float32]:
    """Gives a token that the preprocessing maps to zero, up to float32's rounding."""
    if preprocess.token_norm == "layernorm" and not preprocess.center.any():
        return np.full(D, 7.3, np.float32)
    if preprocess.token_norm == "layernorm":  # any token of mean 0 and variance 1 is its own LayerNorm, but for epsilon
        token = preprocess.center * np.sqrt(1e-5 / max(1 - np.square(preprocess.center).mean(), 1e-9))
        return token.astype(np.float32)
    return preprocess.center.astype(np.float32)


def rates(rows: ArrayRows, preprocessings: dict[str, Preprocessing], k: int) -> dict[str, tuple[float, float]]:
    found = measure(rows, preprocessings, D_SAE, k, [0])
    return {name: (death.dead_relu.mean, death.dead_total.mean) for name, death in found.preprocessings.items()}


@pytest.mark.parametrize("make_product", PRODUCTS)
@pytest.mark.parametrize("k", [1, 8, D_SAE])
def test_a_token_at_the_center_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, make_product: Callable[..., product.Product], k: int
) -> None:
    monkeypatch.setattr(trial, "make_product", make_product)
    x = outliers()
    preprocessings = fitted(x)
    without = rates(ArrayRows(x), preprocessings, k)
    for name, preprocess in preprocessings.items():
        token = at_center(preprocess)
        assert np.abs(preprocess.apply(token[None])).max() == 0, name
        more = np.insert(x, [0, 1_500, 1_500, TOKENS], token, axis=0)
        assert rates(ArrayRows(more), preprocessings, k)[name] == without[name], name


@pytest.mark.parametrize("make_product", PRODUCTS)
def test_a_token_of_zeros_behind_an_offset_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, make_product: Callable[..., product.Product]
) -> None:
    """Stores rows as values about an offset."""
    monkeypatch.setattr(trial, "make_product", make_product)
    x = outliers()
    offset = np.median(x, axis=0).astype(np.float16).astype(np.float32)
    preprocessings = {name: fitted(x)[name] for name in ("raw", "center_median", "rescale")}
    without = rates(ArrayRows(x - offset, offset=offset), preprocessings, 8)
    more = np.insert(x, 1_500, 0, axis=0)
    found = rates(ArrayRows(more - offset, offset=offset), preprocessings, 8)
    assert found["raw"] == without["raw"]
    assert found["rescale"] == without["rescale"]


def test_the_reported_case() -> None:
    """One zero row among 4,000 took dead_relu from 0.421 to 0.254 (d 64, gamma 20)."""
    rng = np.random.default_rng(1)
    mean = rng.standard_normal(64)
    x = (rng.standard_normal((4_000, 64)) + 20 * 8 * mean / np.linalg.norm(mean)).astype(np.float32)
    preprocessings = {"raw": Preprocessing(np.zeros(64)), "center_mean": Preprocessing(x.mean(0, dtype=np.float64))}

    def raw(x: NDArray[np.float32]) -> Death:
        return measure(ArrayRows(x), preprocessings, 1024, 16, [0]).preprocessings["raw"]

    before = raw(x)
    assert 0.40 < before.dead_relu.mean < 0.45
    x = np.insert(x, 2_048, 0, axis=0)
    after = raw(x)
    assert after.dead_relu == before.dead_relu
    assert after.dead_total == before.dead_total
    assert after.curve_relu[:12] == before.curve_relu[:12]


@pytest.mark.parametrize("shrink", [1e-3, 1e-5, 1e-7])
def test_a_token_near_the_center_is_counted_as_by_hand(shrink: float) -> None:
    """Tokens that are small against the terms that cancel in the shared product, but far above float32's rounding."""
    x = outliers()
    x[::7] = shrink * np.random.default_rng(2).standard_normal((len(x[::7]), D))
    found = rates(ArrayRows(x), {"raw": Preprocessing(np.zeros(D)), "far": Preprocessing(np.full(D, 50.0))}, 8)
    w_enc = trial_encoder()
    hidden = x.astype(np.float64) @ w_enc
    largest = np.sort(hidden, axis=1)[:, -8][:, None]
    relu, total = 1 - (hidden > 0).any(0).mean(), 1 - ((hidden > 0) & (hidden >= largest)).any(0).mean()
    assert found["raw"] == (pytest.approx(relu, abs=1e-12), pytest.approx(total, abs=1e-12))


def trial_encoder() -> NDArray[np.float64]:
    from saelib.init_death.encoder import random_encoder

    return random_encoder(D, D_SAE, 0).astype(np.float64)


@pytest.mark.parametrize("name", ["layernorm", "ln_center"])
def test_layer_norm_of_a_token_without_spread_is_zero(name: str) -> None:
    """The rounding of a constant token, divided by the root of epsilon, would look like a signal."""
    offset = np.linspace(-40, 40, D).astype(np.float32)
    token = np.full((1, D), 123.456, np.float32)
    preprocess = fitted(outliers())[name]
    expected = layer_norm(np.zeros((1, D))) - preprocess.center
    np.testing.assert_allclose(
        preprocess.apply(token - offset, offset), expected, atol=1e-12 if name == "layernorm" else 1e-3
    )
