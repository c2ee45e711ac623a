"""The closed forms with a spectrum: limits, order, and simulated Gaussian tokens."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.errors import UserError
from saelib.init_death.measure import measure
from saelib.preprocessing.transform import Preprocessing
from saelib.theory.spectrum import dead_total_from_ranks, dead_total_from_spectrum

D, TOKENS, D_SAE, K = 128, 4000, 2048, 64


def participation_ratio(x: NDArray[np.float64]) -> float:
    variances = np.linalg.eigvalsh(np.cov(x.T))
    return variances.sum() ** 2 / (variances**2).sum()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_gaussian_tokens_die_as_predicted(gamma: float, decay: float) -> None:
    rng = np.random.default_rng(0)
    scales = np.exp(-decay * np.arange(D))
    x = rng.standard_normal((TOKENS, D)) * scales
    mean = rng.standard_normal(D)
    x += gamma * np.linalg.norm(scales) * mean / np.linalg.norm(mean)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    gamma_unit = float(np.linalg.norm(unit.mean(0)) / np.linalg.norm(unit.std(0)))
    counted = measure(ArrayRows(x.astype(np.float32)), {"raw": Preprocessing(np.zeros(D))}, D_SAE, K, [1, 2, 3])
    found = dead_total_from_spectrum(gamma_unit, participation_ratio(unit), 0, D, D_SAE, K, TOKENS)
    assert abs(found - counted["raw"].dead_total.mean) < 0.03


def test_isotropic_tokens_without_a_mean_leave_the_floor() -> None:
    found = dead_total_from_spectrum(0, np.inf, 0, 4096, 1024, 2, 512)
    assert found == pytest.approx((1 - 2 / 1024) ** 512, abs=0.01)


def test_the_mean_alone_leaves_all_but_the_selected() -> None:
    assert dead_total_from_spectrum(1e4, 50, 0, 4096, 1024, 64, 1000) == pytest.approx(1 - 64 / 1024, abs=0.02)


def test_few_directions_kill_and_heavy_tails_revive() -> None:
    def dead(rank: float = 30, kurtosis: float = 0) -> float:
        return dead_total_from_spectrum(1.5, rank, kurtosis, 384, 2048, 64, 8192)

    assert dead(rank=5) > dead(rank=30) > dead(rank=np.inf)
    assert dead(kurtosis=3) < dead(kurtosis=0.5) < dead(kurtosis=0.039)
    assert dead(kurtosis=0.05) == pytest.approx(dead(), abs=0.03)


def test_without_a_fit_the_ranks_give_the_spectrums_form() -> None:
    expected = dead_total_from_spectrum(2, 10, 0, 384, 2048, 64, 8192)
    found = dead_total_from_ranks(1, 2, 20, 384, 2048, 64, 8192, signal_scale=1, tokens_per_rank=np.inf)
    assert found == pytest.approx(expected)


def test_bad_input_gets_one_sentence() -> None:
    with pytest.raises(UserError, match="gamma"):
        dead_total_from_spectrum(np.nan, 10, 0, 384, 2048, 64, 8192)
    with pytest.raises(UserError, match="participation"):
        dead_total_from_spectrum(1, 0, 0, 384, 2048, 64, 8192)
    with pytest.raises(UserError, match="k lie between"):
        dead_total_from_ranks(1, 1, 20, 384, 64, 65, 8192)
