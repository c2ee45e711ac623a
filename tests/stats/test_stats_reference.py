"""Every statistic against its definition in float64, on data chosen to break float32."""

from dataclasses import dataclass

import numpy as np
import pytest

from saelib.activations.rows import ArrayRows
from saelib.stats import LayerStats, compute_stats


@dataclass
class Case:
    """Rows, and the same tokens as float64."""

    rows: ArrayRows
    tokens: np.ndarray
    stats: LayerStats


def ordinary(rng: np.random.Generator, tokens: int = 6000, d_in: int = 48) -> np.ndarray:
    """Correlated, heavy-tailed tokens with a mean of about half their spread."""
    mix = rng.standard_normal((d_in, d_in)) * np.arange(1, d_in + 1) ** -0.5
    mean = rng.standard_normal(d_in) * 2
    return rng.standard_t(8, (tokens, d_in)) @ mix.T + mean


def with_gamma(x: np.ndarray, gamma: float, direction: np.ndarray) -> np.ndarray:
    centered = x - x.mean(0)
    return centered + gamma * np.linalg.norm(x.std(0)) * direction / np.linalg.norm(direction)


def make_rows(kind: str) -> ArrayRows:
    rng = np.random.default_rng(len(kind))
    x = ordinary(rng)
    spread, axis = rng.standard_normal(x.shape[1]), np.eye(x.shape[1])[3]
    match kind:
        case "float32":
            return ArrayRows(x.astype(np.float32), block_rows=512)
        case "gamma 1000, spread":
            return ArrayRows(with_gamma(x, 1000, spread).astype(np.float32), block_rows=700)
        case "gamma 1000, one dimension":
            return ArrayRows(with_gamma(x, 1000, axis).astype(np.float32))
        case "gamma 1000, float64":
            return ArrayRows(with_gamma(x, 1000, axis + 0.1 * spread))
        case "all-ones offset":
            return ArrayRows(with_gamma(x, 300, np.ones_like(axis) + 0.01 * axis).astype(np.float32))
        case "fewer tokens than dimensions":
            return ArrayRows(ordinary(rng, 60, 150).astype(np.float32), block_rows=16)
        case "three directions":
            low = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 64))
            return ArrayRows((low + rng.standard_normal(64)).astype(np.float32))
        case "massive tokens":
            x = with_gamma(x, 5, spread)
            x[rng.random(len(x)) < 0.01, 7] += 1e4
            return ArrayRows(x.astype(np.float32), block_rows=512)
        case "massive tokens at gamma 1000":
            x = with_gamma(x, 1000, spread)
            x[rng.random(len(x)) < 0.01, 7] += 1e7
            return ArrayRows(x.astype(np.float32))
        case "float16 with offset":
            rows = ArrayRows(x.astype(np.float16), block_rows=1024)
            rows.offset = (1000 * axis * np.linalg.norm(x.std(0)) + spread).astype(np.float32)
            return rows
        case "tiny":
            return ArrayRows((x * 1e-9).astype(np.float32))
        case "huge":
            return ArrayRows((x * 1e12).astype(np.float32))
        case "two tokens":
            return ArrayRows(np.array([[1.0, 2.0, 4.0], [3.0, -1.0, 0.5]], np.float32))
    raise ValueError(kind)


KINDS = [
    "float32", "gamma 1000, spread", "gamma 1000, one dimension", "gamma 1000, float64", "all-ones offset",
    "fewer tokens than dimensions", "three directions", "massive tokens", "massive tokens at gamma 1000",
    "float16 with offset", "tiny", "huge", "two tokens",
]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, device: str) -> Case:
    rows = make_rows(request.param)
    tokens = rows.values.astype(np.float64) + (0 if rows.offset is None else rows.offset)
    return Case(rows, tokens, compute_stats(rows, device=device))


def layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)


def deviation(x: np.ndarray) -> np.ndarray:
    """Returns the deviation from the mean, whose rounding at gamma = 1000 would otherwise show."""
    return (x - x[0]) - (x - x[0]).mean(0)


def length_of_sigma(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(deviation(x)).sum() / len(x)))


def gamma(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.mean(0)) / length_of_sigma(x))


def effective_rank(x: np.ndarray) -> float:
    power = np.linalg.svd(deviation(x), compute_uv=False) ** 2
    shares = power / power.sum()
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def geometric_median(x: np.ndarray) -> np.ndarray:
    """Plain Weiszfeld; converged when the unit vectors toward the tokens cancel."""
    y = np.median(x, axis=0)
    for _ in range(10_000):
        distance = np.maximum(np.linalg.norm(x - y, axis=1), 1e-300)
        pull = ((x - y) / distance[:, None]).sum(0)
        if np.linalg.norm(pull) < 1e-11 * len(x):
            break
        y = y + pull / (1 / distance).sum()
    return y


def test_gammas(case: Case) -> None:
    x = case.tokens
    assert case.stats.gamma_raw == pytest.approx(gamma(x), rel=1e-6)
    assert case.stats.gamma_unit == pytest.approx(gamma(x / np.linalg.norm(x, axis=1, keepdims=True)), rel=1e-6)
    assert case.stats.gamma == pytest.approx(gamma(layer_norm(x)), rel=1e-6)


def test_effective_rank_and_spectrum(case: Case) -> None:
    x = layer_norm(case.tokens)
    eigenvalues = np.linalg.svd(deviation(x), compute_uv=False)[:64] ** 2 / len(x)
    assert case.stats.effective_rank == pytest.approx(effective_rank(x), rel=1e-6)
    assert case.stats.effective_rank_fraction == case.stats.effective_rank / x.shape[1]
    np.testing.assert_allclose(
        case.stats.leading_eigenvalues[: len(eigenvalues)], eigenvalues, rtol=1e-6, atol=1e-7 * eigenvalues[0]
    )


def test_moments(case: Case) -> None:
    x, arrays = case.tokens, case.stats.arrays
    centered = deviation(x)
    variance = np.square(centered).mean(0)
    sigma = np.sqrt(variance.sum())
    np.testing.assert_allclose(arrays["mean"], x.mean(0), rtol=0, atol=1e-7 * sigma)
    np.testing.assert_allclose(arrays["std"], np.sqrt(variance), rtol=1e-6)
    normed = layer_norm(x)
    length = np.linalg.norm(deviation(normed).std(0))
    np.testing.assert_allclose(arrays["ln_mean"], normed.mean(0), rtol=2e-7, atol=1e-6 * length)
    # An outlier's own spread after LayerNorm at gamma 1000 is a float32's last bits.
    np.testing.assert_allclose(arrays["ln_std"], deviation(normed).std(0), rtol=1e-6, atol=1e-5 * length)
    kurtosis = (centered**4).mean(0) / variance**2 - 3
    np.testing.assert_allclose(arrays["excess_kurtosis"], kurtosis, rtol=1e-5, atol=1e-5)
    assert case.stats.excess_kurtosis == pytest.approx(kurtosis.mean(), rel=1e-5, abs=1e-5)
    assert case.stats.sigma == pytest.approx(sigma, rel=1e-6)


def test_centers(case: Case) -> None:
    x, arrays = case.tokens, case.stats.arrays
    ordered = np.sort(x, axis=0)
    cut = int(0.1 * len(x))
    expected = {
        "center_median": geometric_median(x),
        "center_coordinate_median": np.median(x, axis=0),
        "center_trimmed_mean": ordered[cut : len(x) - cut].mean(0),
    }
    if len(x) == 2:  # every point between the two tokens is a median
        del expected["center_median"]
    for name, center in expected.items():
        assert np.linalg.norm(arrays[name] - center) < 1e-6 * length_of_sigma(x), name
        distance = np.linalg.norm(arrays["mean"] - center) / length_of_sigma(x)
        assert case.stats.center_distances[f"mean to {name}"] == pytest.approx(distance, rel=1e-4, abs=2e-6)


def test_median_of_layer_normed_tokens(case: Case) -> None:
    if len(case.tokens) == 2:
        return
    x = layer_norm(case.tokens)
    error = np.linalg.norm(case.stats.arrays["ln_center_median"] - geometric_median(x))
    assert error < 1e-6 * length_of_sigma(x)


def test_raw_spectrum(case: Case) -> None:
    centered = deviation(case.tokens)
    expected = np.linalg.svd(centered, compute_uv=False) ** 2 / len(centered)
    eigenvalues, vectors = case.stats.arrays["eigenvalues"], case.stats.arrays["eigenvectors"]
    np.testing.assert_allclose(eigenvalues[: len(expected)], expected, rtol=1e-6, atol=1e-13 * expected[0])
    assert np.all(np.diff(eigenvalues) <= 0)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(vectors)), atol=1e-5)
    projected = np.square(centered @ vectors.astype(np.float64)).mean(0)
    np.testing.assert_allclose(projected, eigenvalues, rtol=1e-4, atol=1e-9 * expected[0])


def test_norms(case: Case) -> None:
    norms = np.linalg.norm(case.tokens, axis=1)
    quantiles = case.stats.norm_quantiles
    for name, fraction in (("p01", 0.01), ("p25", 0.25), ("p50", 0.5), ("p75", 0.75), ("p99", 0.99)):
        assert quantiles[name] == pytest.approx(np.quantile(norms, fraction, method="lower"), rel=1.1e-3)
    assert quantiles["max"] == pytest.approx(norms.max(), rel=1e-6)
    assert case.stats.norm_ratio == pytest.approx(norms.max() / np.quantile(norms, 0.5, method="lower"), rel=1.1e-3)
