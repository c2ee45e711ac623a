"""The cap law's parts against independent computations."""

import numpy as np
import pytest
from scipy import integrate, stats

from saelib.theory import cap_law


@pytest.mark.parametrize("d", [2, 3, 8, 64, 768])
def test_caps_hold_the_share_of_the_sphere_that_integration_gives(d: int) -> None:
    def density(angle: float) -> float:
        return np.sin(angle) ** (d - 2)

    whole, _ = integrate.quad(density, 0, np.pi, points=[np.pi / 2])
    for cosine in (-0.3, 0.0, 0.05, 0.2):
        cap, _ = integrate.quad(density, 0, np.arccos(cosine))
        assert cap_law.tail_mass(np.array(cosine), d) == pytest.approx(cap / whole, rel=1e-6)


@pytest.mark.parametrize("d", [2, 32, 1024])
@pytest.mark.parametrize("share", [0.49, 1 / 32, 1 / 2048])
def test_the_bar_bounds_a_cap_of_its_share(d: int, share: float) -> None:
    assert cap_law.tail_mass(np.array(cap_law.cap_cosine(share, d)), d) == pytest.approx(share, rel=1e-9)


def test_three_dimensions_are_uniform_in_the_cosine() -> None:
    """Archimedes: on the sphere in R^3 a cap's share is (1 - cos) / 2."""
    assert cap_law.cap_cosine(1 / 32, 3) == pytest.approx(1 - 2 / 32)


@pytest.mark.parametrize(("d_sae", "k"), [(64, 1), (512, 16), (2048, 64), (8, 8)])
def test_a_token_passes_over_a_row_when_k_others_lie_in_its_cap(d_sae: int, k: int) -> None:
    mass = np.array([0.0, 0.5, 1.3, 3]) * min(k / d_sae, 0.3)
    expected = stats.binom.sf(k - 1, d_sae - 1, mass)
    np.testing.assert_allclose(cap_law.passed_over(mass, d_sae, k), expected, rtol=1e-9, atol=1e-300)


def test_a_random_row_is_selected_k_times_in_d_sae() -> None:
    selected, _ = integrate.quad(lambda mass: 1 - float(cap_law.passed_over(np.array(mass), 100, 5)), 0, 1)
    assert selected == pytest.approx(5 / 100, rel=1e-9)


@pytest.mark.parametrize("share", [0.3, 1 / 32, 1 / 500])
def test_caps_overlap_as_the_bivariate_normal_says(share: float) -> None:
    bar = -stats.norm.ppf(share)
    for cosine in (-0.5, 0.0, 0.3, 0.9):
        both, _ = integrate.quad(
            lambda x, c=cosine: stats.norm.pdf(x) * stats.norm.sf((bar - c * x) / np.sqrt(1 - c**2)),
            bar,
            12,
            epsabs=1e-13,
        )
        expected = (both - share**2) / (share - share**2)
        assert cap_law.cap_correlation(np.array(cosine), share) == pytest.approx(expected, abs=1e-6)
    assert cap_law.cap_correlation(np.array(1.0), share) == pytest.approx(1, abs=0.01)


def test_the_common_factor_leaves_the_probability_of_one_token_alone() -> None:
    mass = np.linspace(0.001, 0.1, 9)
    for correlation in (0.0, 0.3, 0.6):
        one = cap_law.over_the_factor(np.exp(cap_law.log_passed_over(mass, 512, 16, correlation)))
        np.testing.assert_allclose(one, cap_law.passed_over(mass, 512, 16), atol=2e-3)


@pytest.mark.parametrize("d", [8, 256])
def test_batch_topk_takes_k_pre_activations_a_token_on_average(d: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(0, 1, 500)
    bar = cap_law.batch_threshold(lengths, d, 2048, 64)
    assert 2048 * cap_law.tail_mass(np.minimum(bar / lengths, 1), d).mean() == pytest.approx(64, rel=1e-6)
    same = cap_law.batch_threshold(np.full(10, 3.0), d, 2048, 64)
    assert same == pytest.approx(3 * cap_law.cap_cosine(1 / 32, d), rel=1e-9)
    assert cap_law.batch_threshold(lengths, d, 100, 50) == 0
    assert cap_law.batch_threshold(np.zeros(3), d, 100, 5) == 0
