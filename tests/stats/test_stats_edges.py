"""Data that cannot be measured is refused by name; data that misleads is measured with a warning."""

import subprocess
import sys
import warnings
from contextlib import suppress

import numpy as np
import pytest

from saelib.activations.rows import ArrayRows
from saelib.errors import UserError
from saelib.stats import compute_stats


def tokens(n: int = 3000, d_in: int = 16) -> np.ndarray:
    """Draws tokens with a mean that LayerNorm does not change: 1 and -1 in turn."""
    mean = np.resize([1, -1], d_in).astype(np.float32)
    return np.random.default_rng(0).standard_normal((n, d_in)).astype(np.float32) + mean


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(bad: float, dtype: type, device: str) -> None:
    x = tokens(20_000).astype(dtype)
    x[[777, 12_345, 12_345, 19_999], [3, 0, 1, 15]] = bad
    with pytest.raises(UserError, match=r"gpt layer 3: NaN or infinite values in 3 of 20000 tokens.* row 777 "):
        compute_stats(ArrayRows(x, name="gpt layer 3", block_rows=512), workers=2, device=device)


def test_nothing_but_nan(device: str) -> None:
    with pytest.raises(UserError, match="in 50 of 50 tokens, the first in row 0 "):
        compute_stats(ArrayRows(np.full((50, 4), np.nan, np.float32)), device=device)


def test_float64_beyond_float32_is_refused_and_not_turned_into_infinity(device: str) -> None:
    x = tokens().astype(np.float64)
    x[5, 5] = 1e60
    with pytest.raises(UserError, match=r"values as large as 1e\+60, .*in 1 of 3000 tokens.* row 5 "):
        compute_stats(ArrayRows(x), device=device)


@pytest.mark.parametrize("bad", [1e60, 1e300, np.nan, np.inf])
@pytest.mark.parametrize("rows", [slice(5, 6), slice(None)])
def test_no_warning_of_numpy_comes_with_it(bad: float, rows: slice) -> None:
    x = tokens().astype(np.float64)
    x[rows] *= bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"tokens, the first in row [05] .*; "):
            compute_stats(ArrayRows(x))


@pytest.mark.parametrize("scale", [1e-16, 1e-8, 1e8, 1e20, 1e24, 1e30])
def test_activations_of_any_size_that_float32_holds(scale: float, device: str) -> None:
    x = tokens().astype(np.float64)
    x[7] = 0
    expected = compute_stats(ArrayRows(x))
    found = compute_stats(ArrayRows(x * scale), device=device)
    assert found.gamma_raw == pytest.approx(expected.gamma_raw, rel=1e-6)
    assert found.gamma_unit == pytest.approx(expected.gamma_unit, rel=1e-6)
    assert found.norm_ratio == pytest.approx(expected.norm_ratio, rel=2e-3)
    assert found.warnings == expected.warnings


def test_activations_too_small_for_float32() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scale in (1e-25, 1e-300):
            with pytest.raises(UserError, match="multiply all activations by one number"):
                compute_stats(ArrayRows(tokens().astype(np.float64) * scale))


def test_one_token_that_would_make_all_others_zeros(device: str) -> None:
    x = tokens(300)
    x[4] = 1e25
    with pytest.raises(UserError, match=r"more than 1e\+18 times as long as most"):
        compute_stats(ArrayRows(x), device=device)
    x[4] = 1e15
    assert compute_stats(ArrayRows(x), device=device).warnings[0].startswith("massive tokens")


@pytest.mark.parametrize("shape", [(0, 8), (8, 0)])
def test_no_activations(shape: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="empty: no activations"):
        compute_stats(ArrayRows(np.zeros(shape, np.float32), name="empty"))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_constant_activations(value: float, dtype: type, device: str) -> None:
    x = np.full((5000, 8), value, dtype) * np.arange(1, 9, dtype=dtype)
    with pytest.raises(UserError, match="constant: all 5000 tokens are the same, so gamma_raw"):
        compute_stats(ArrayRows(x, name="constant", block_rows=128), device=device)


def test_one_token() -> None:
    with pytest.raises(UserError, match="all 1 tokens are the same"):
        compute_stats(ArrayRows(tokens(1)))


def test_what_the_tokens_do_not_define_is_left_out_and_said(device: str) -> None:
    x = np.linspace(1, 2, 3000)[:, None] * np.linspace(-100, 300, 16)
    stats = compute_stats(ArrayRows(x), device=device)
    assert (stats.gamma, stats.gamma_unit, stats.effective_rank, stats.effective_rank_fraction) == (None,) * 4
    assert stats.gamma_raw == pytest.approx(np.linalg.norm(x.mean(0)) / np.linalg.norm(x.std(0)), rel=1e-6)
    assert stats.warnings == [
        "all 3000 tokens are the same after LayerNorm, so gamma is not defined",
        "all 3000 tokens are the same except for their length, so gamma_unit is not defined",
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_dimension(dtype: type, device: str) -> None:
    x = (np.random.default_rng(0).standard_normal((3000, 1)) + 1).astype(dtype)
    stats = compute_stats(ArrayRows(x), device=device)
    assert stats.gamma is None
    assert stats.gamma_raw == pytest.approx(x.mean() / x.std(), rel=1e-5)
    assert stats.gamma_unit == pytest.approx(np.sign(x).mean() / np.sign(x).std(), rel=1e-5)
    assert stats.arrays["center_median"] == pytest.approx(np.median(x), rel=1e-3)


def gamma_of(tokens: np.ndarray) -> float:
    return float(np.linalg.norm(tokens.mean(0)) / np.linalg.norm(tokens.std(0)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-8, 1e-3, 1e3, 1e8, 1e15])
@pytest.mark.parametrize("share", [0.001, 0.3])
def test_some_tokens_of_another_size(share: float, size: float, dtype: type) -> None:
    """Neither is taken for zeros, nor its direction lost, whichever are the usual ones."""
    x = tokens().astype(np.float64)
    x[np.random.default_rng(1).random(len(x)) < share] *= size
    x = x.astype(dtype)
    stats = compute_stats(ArrayRows(x))
    exact = x.astype(np.float64)
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    normalized = exact - exact.mean(1, keepdims=True)
    normalized /= np.sqrt(np.square(normalized).mean(1, keepdims=True) + 1e-5)
    assert stats.gamma_unit == pytest.approx(gamma_of(unit), rel=1e-4)
    assert stats.gamma == pytest.approx(gamma_of(normalized), rel=1e-4)
    assert not any("zeros" in warning for warning in stats.warnings)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-300, 1e-44, 1e-38, 1e-30, 1e30, 1e38, 1e60, 1e300])
@pytest.mark.parametrize("where", [np.s_[:], np.s_[5], np.s_[:, 3], np.s_[5, 3]], ids=["all", "row", "column", "value"])
def test_no_scale_makes_a_traceback_or_a_warning_of_numpys(where: object, size: float, dtype: type) -> None:
    x = tokens().astype(np.float64)
    x[where] *= size
    with np.errstate(over="ignore"):
        x = x.astype(dtype)
    with suppress(UserError):
        assert np.isfinite(compute_stats(ArrayRows(x)).gamma_raw or np.nan)


def test_constant_dimensions_are_left_out_of_the_kurtosis() -> None:
    x = tokens()
    x[:, [2, 9]] = [0.1, -77.7]
    stats = compute_stats(ArrayRows(x))
    without = compute_stats(ArrayRows(np.delete(x, [2, 9], axis=1)))
    assert np.array_equal(stats.arrays["std"] == 0, np.isin(np.arange(16), [2, 9]))
    assert np.array_equal(np.isnan(stats.arrays["excess_kurtosis"]), np.isin(np.arange(16), [2, 9]))
    assert stats.excess_kurtosis == pytest.approx(without.excess_kurtosis, rel=1e-6)
    assert "2 of 16 dimensions are constant" in stats.warnings


def test_tokens_of_zeros_are_kept_and_mentioned() -> None:
    x = tokens()
    x[::3] = 0
    stats = compute_stats(ArrayRows(x))
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(norms > 0, norms, 1)
    expected = np.linalg.norm(unit.mean(0)) / np.linalg.norm(unit.std(0))
    assert stats.gamma_unit == pytest.approx(expected, rel=1e-5)
    assert stats.norm_quantiles["p01"] == pytest.approx(np.quantile(norms[norms > 0], 0.01, method="lower"), rel=1e-3)
    assert "1000 tokens are all zeros, which suggests padding" in stats.warnings


def test_warnings_come_when_they_should() -> None:
    assert compute_stats(ArrayRows(tokens())).warnings == []

    def warns(x: np.ndarray, words: str) -> bool:
        warnings = compute_stats(ArrayRows(x)).warnings
        return len(warnings) == 1 and words in warnings[0]

    assert warns(tokens(79), "79 tokens are few for 16 dimensions: with fewer than 80")
    assert compute_stats(ArrayRows(tokens(80))).warnings == []
    massive = tokens()
    massive[4, 4] = 1000
    assert warns(massive, "massive tokens")
    flat = tokens()
    flat[:, 1] *= 1e-7
    assert warns(flat, "1 of 16 dimensions vary less than a millionth")
    severe = tokens().astype(np.float64)
    severe[:, :2] += [1e6, -2e6]
    assert warns(severe, "limit of float32")


def test_a_median_that_is_not_exact_is_owned_up_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saelib.stats.medians._MAX_STEPS", 1)
    assert compute_stats(ArrayRows(tokens())).warnings == [
        f"{name} is not exact: its search stopped after 1 steps" for name in ("center_median", "ln_center_median")
    ]


def test_whitening_is_optional() -> None:
    assert "eigenvectors" not in compute_stats(ArrayRows(tokens()), whitening=False).arrays


def test_import_stays_light() -> None:
    script = "import sys, saelib.stats; print([m for m in ('numba', 'torch', 'dask', 'zarr') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
