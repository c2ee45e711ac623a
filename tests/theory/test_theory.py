import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from saelib.errors import UserError
from saelib.theory import closed_forms

GAMMAS = np.geomspace(0.05, 200, 60)


@pytest.mark.parametrize(("tokens", "c"), [(1_000, 3.09), (10_000, 3.72), (100_000, 4.26), (1_000_000, 4.75)])
def test_published_thresholds(tokens: int, c: float) -> None:
    assert closed_forms.lethal_threshold(tokens) == pytest.approx(c, abs=0.005)


@pytest.mark.parametrize(("d_sae", "k", "bar"), [(8192, 64, 2.41756), (100, 5, 1.64485), (64, 32, 0.0)])
def test_published_rank_bars(d_sae: int, k: int, bar: float) -> None:
    assert closed_forms.rank_bar(d_sae, k) == pytest.approx(bar, abs=1e-5)


def test_threshold_is_where_one_token_is_expected_beyond() -> None:
    for tokens in (2, 77, 10**9):
        beyond, _ = integrate.quad(norm.pdf, closed_forms.lethal_threshold(tokens), np.inf, epsabs=0, epsrel=1e-10)
        assert tokens * beyond == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("d_sae", "k", "limit"), [(8192, 64, 0.9921875), (100, 5, 0.95), (10, 9, 0.5), (10, 10, 0.5)])
def test_limits(d_sae: int, k: int, limit: float) -> None:
    gammas = np.array([0.0, np.inf])
    np.testing.assert_allclose(closed_forms.dead_relu(gammas, 100_000), [0, 0.5], atol=1e-12)
    np.testing.assert_allclose(closed_forms.dead_total_paper(gammas, d_sae, k, 100_000), [0, limit], atol=1e-12)
    np.testing.assert_allclose(closed_forms.dead_total(gammas, d_sae, k, 100_000), [0, limit], atol=1e-12)


@pytest.mark.parametrize(("tokens", "limit"), [(127, 1.0), (128, 0.5), (129, 0.0)])
def test_extended_limit_at_zero_depends_on_tokens_for_each_place(tokens: int, limit: float) -> None:
    """Without a mean a token selects any k features alike: fewer than d_sae / k tokens cannot reach them all."""
    assert closed_forms.dead_total(0.0, 8192, 64, tokens) == pytest.approx(limit, abs=1e-9)


@pytest.mark.parametrize(
    ("rate", "gamma"),
    [(0.10, 1.15), (0.50, 1.76), (0.90, 3.75)],
)
def test_practical_thresholds_for_total_death(rate: float, gamma: float) -> None:
    below, above = closed_forms.dead_total_paper([gamma - 0.006, gamma + 0.006], 8192, 64, 100_000)
    assert below < rate < above


@pytest.mark.parametrize(("rate", "gamma"), [(0.01, 1.83), (0.10, 3.33), (0.25, 6.3), (0.40, 16.8)])
def test_practical_thresholds_for_relu_death(rate: float, gamma: float) -> None:
    below, above = closed_forms.dead_relu([gamma * 0.995, gamma * 1.005], 100_000)
    assert below < rate < above


def test_rates_rise_with_gamma_and_fall_with_tokens() -> None:
    for tokens in (1_000, 100_000):
        for rates in (closed_forms.dead_relu(GAMMAS, tokens), closed_forms.dead_total_paper(GAMMAS, 8192, 64, tokens)):
            assert (np.diff(rates) >= 0).all()
            assert rates[-1] > rates[0]
    assert (closed_forms.dead_relu(GAMMAS, 1_000) >= closed_forms.dead_relu(GAMMAS, 100_000)).all()
    few, many = (closed_forms.dead_total_paper(GAMMAS, 8192, 64, tokens) for tokens in (1_000, 100_000))
    assert (few >= many).all()


@given(gamma=st.floats(0, 1e6), d_sae=st.integers(1, 10_000), share=st.floats(0, 1), tokens=st.integers(2, 10**8))
def test_order_of_the_rates(gamma: float, d_sae: int, share: float, tokens: int) -> None:
    k = max(1, round(share * d_sae))
    found = closed_forms.predict(gamma, d_sae, k, tokens)
    assert 0 <= found.dead_relu <= found.dead_total_paper + 1e-12 <= found.dead_total + 2e-12 <= 1 + 2e-12


def test_extended_form_joins_the_paper_at_large_gamma() -> None:
    gammas = np.geomspace(10, 1e4, 20)
    excess = closed_forms.dead_total(gammas, 8192, 64, 100_000) - closed_forms.dead_total_paper(
        gammas, 8192, 64, 100_000
    )
    assert (np.abs(excess) < 1 / gammas**2).all()


def test_extended_form_is_its_formula() -> None:
    bar, c = norm.isf(32 / 4096), norm.isf(1 / 20_000)
    expected = norm.cdf(bar * np.sqrt(1 + GAMMAS**-2) - c / GAMMAS)
    np.testing.assert_allclose(closed_forms.dead_total(GAMMAS, 4096, 32, 20_000), expected, atol=1e-12)


def test_shape_is_kept() -> None:
    assert closed_forms.dead_total_paper(np.ones((2, 3)), 100, 5, 1_000).shape == (2, 3)
    assert np.ndim(closed_forms.dead_relu(2.0, 1_000)) == 0


@pytest.mark.parametrize("gamma", [-0.1, np.nan, [1.0, np.nan]])
def test_impossible_gamma_is_refused(gamma: float) -> None:
    with pytest.raises(UserError, match="gamma"):
        closed_forms.dead_relu(gamma, 1_000)


@pytest.mark.parametrize(("d_sae", "k"), [(10, 11), (10, 0), (0, 0)])
def test_impossible_k_is_refused(d_sae: int, k: int) -> None:
    with pytest.raises(UserError, match="k must lie between 1 and d_sae"):
        closed_forms.predict(1.0, d_sae, k, 1_000)


def test_an_infinite_gamma_is_refused() -> None:
    with pytest.raises(UserError, match="gamma = inf: must be a finite number"):
        closed_forms.predict(np.inf, 100, 5, 1_000)


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="tokens = 1"):
        closed_forms.lethal_threshold(1)
