"""Death at initialization agrees with closed forms and symmetries.

Tolerances: the standard error of a rate p over L latents in all is sqrt(p (1 - p) / L), at most 0.5 / sqrt(L); tests
allow four of them on top of the bias that is known of a form.
"""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from tests.lab.cells import mean, run

LATENTS, SEEDS = 1000, 4
ERROR = 4 * 0.5 / math.sqrt(LATENTS * SEEDS)
GAUSSIAN = {"d_in": 64, "n_features": 512, "active": 256}
"""Sums of so many features are nearly Gaussian."""
LOW_RANK = {"d_in": 128, "n_features": 256, "gamma": 20, "low_rank": 4, "low_rank_share": 0.99}


def death(**changes: Any) -> Any:
    settings = {"data": {"gamma": 5}, "sae": {"d_sae": LATENTS, "k": 16}, "tokens": 20_000, "seeds": SEEDS}
    return run(kind="init_death", **(settings | {"calibration_tokens": 4000} | changes))


def only(results: Any) -> Any:
    (result,) = results.values()
    return result


def test_gaussian_signals_follow_the_closed_forms() -> None:
    """ReLU within 1.5 points, total within 1 from gamma 5 on and 4.5 below (paper's and our forms), plus sampling."""
    for name, result in death(data=GAUSSIAN | {"gamma": [1, 2, 5, 20]}).items():
        relu, total = (mean(result, column) for column in ("dead_relu", "dead_total"))
        bias = 0.01 if name in ("gamma=5.0", "gamma=20.0") else 0.045
        assert relu == pytest.approx(result.exact["predicted_dead_relu"][0], abs=0.015 + ERROR)
        assert total == pytest.approx(result.exact["predicted_dead_total"][0], abs=bias + ERROR)
        assert result.exact["limit_dead_relu"][0] == 0.5
        assert result.exact["limit_dead_total"][0] == pytest.approx(1 - 16 / LATENTS)


def test_death_rises_with_gamma_and_falls_with_tokens() -> None:
    results = death(data={"gamma": [1, 3, 10, 40]}, tokens=[100, 1000, 10_000])
    totals = [[mean(result, "dead_total", record) for record in range(3)] for result in results.values()]
    assert all(a < b for weak, strong in itertools.pairwise(totals) for a, b in zip(weak, strong, strict=True))
    assert all(few > some >= many for few, some, many in totals)


def test_death_depends_on_gamma_and_not_on_scale() -> None:
    """Factors of two change no bit of a comparison."""
    one, two, four = death(data={"gamma": 5, "signal_scale": [1, 2, 4]}).values()
    assert one.measured["dead_total"] == two.measured["dead_total"] == four.measured["dead_total"]
    assert one.measured["dead_relu"] == two.measured["dead_relu"] == four.measured["dead_relu"]


def test_gaussian_rows_know_no_direction() -> None:
    axis, rotated = death(data={"gamma": 5, "rotated": [False, True]}).values()
    for column in ("dead_relu", "dead_total"):
        assert mean(axis, column) == pytest.approx(mean(rotated, column), abs=math.sqrt(2) * ERROR)


def test_uniform_rows_change_death_if_the_mean_lies_along_an_axis() -> None:
    """Paper, B.1, with d=50, n=500: 75-77 % of Gaussian and 67-69 % of uniform rows are dead at gamma 5."""
    sae = {"d_sae": 500, "k": 25, "rows": ["gaussian", "uniform"]}
    gaussian, uniform = death(sae=sae, tokens=100_000).values()
    assert mean(gaussian, "dead_total") > mean(uniform, "dead_total") + 0.04
    assert mean(uniform, "dead_relu") > mean(gaussian, "dead_relu") + 0.02


def test_centering_prevents_death_whatever_gamma_is() -> None:
    for result in death(data={"gamma": [1, 40]}, preprocessings=["center_median"]).values():
        assert set(result.measured["dead_relu"][0]) == {0.0}
        assert mean(result, "dead_total") < 0.01


def test_the_geometric_median_survives_contamination_and_the_mean_does_not() -> None:
    """Its shift is ||sigma|| r / sqrt(1 - r^2) with r = eps / (1 - eps), however large the contamination is."""
    data = {"gamma": 20, "contaminated": 0.2, "d_in": 100, "n_features": 200}
    result = only(death(data=data, preprocessings=["center_median", "center_mean"], calibration_tokens=20_000))
    r = 0.2 / 0.8
    assert mean(result, "gamma_seen", 0) == pytest.approx(r / math.sqrt(1 - r * r), rel=0.1)
    assert mean(result, "gamma_seen", 1) > 3
    assert mean(result, "dead_total", 0) < 0.01 < 0.3 < mean(result, "dead_total", 1)


def test_low_rank_needs_whitening() -> None:
    """Centering leaves death that whitening removes step by step; a subspace much wider than the rank is no help."""
    alphas = [{"kind": "partial_pca", "alpha": alpha} for alpha in (0, 0.1, 0.2, 0.3, 0.4, 1)]
    subspaces = [{"kind": "active_subspace", "rank": rank} for rank in (8, 32, 128)]
    result = only(death(data=LOW_RANK, preprocessings=[*alphas, *subspaces, "zscore"], tokens=10_000))
    dead = [mean(result, "dead_total", record) for record in range(10)]
    centered, whitened = dead[0], dead[5]
    assert centered > 0.3
    assert whitened == 0
    assert all(more >= less for more, less in itertools.pairwise(dead[:6]))
    assert min(dead[6:9]) > centered - math.sqrt(2) * ERROR
    assert 0 < dead[9] < centered
    assert set(result.measured["dead_relu"][0]) == {0.0}


def test_heavy_tails_are_corrected_by_kurtosis() -> None:
    """The Gaussian form predicts too many dead; the form that knows kurtosis and rank is nearer."""
    data = {"gamma": 5, "tails": "mixture", "wide_ratio": 3}
    result = only(death(data=data, sae={"d_sae": LATENTS, "k": 50}))
    for rate in ("relu", "total"):
        plain, corrected = (abs(mean(result, f"{prefix}error_{rate}")) for prefix in ("", "corrected_"))
        assert mean(result, f"error_{rate}") > 0.03
        assert corrected < 0.6 * plain


def test_latents_one_by_one_agree_with_the_rates() -> None:
    rates = only(death(seeds=1, preprocessings=["raw", "center_mean"]))
    latents = only(death(seeds=1, preprocessings=["raw", "center_mean"], per_latent=True))
    for record, preprocessing in enumerate(("raw", "center_mean")):
        own = [i for i, name in enumerate(latents.at["preprocessing"]) if name == preprocessing]
        assert len(own) == LATENTS
        for column in ("dead_relu", "dead_total"):
            share = sum(latents.measured[column][i][0] for i in own) / LATENTS
            assert share == pytest.approx(rates.measured[column][record][0])
    raw = range(LATENTS)
    shifts = [latents.measured["shift"][i][0] for i in raw if latents.measured["dead_relu"][i][0]]
    assert max(shifts) < 0  # a latent that is never positive has a negative mean


def test_repetitions_differ_and_runs_do_not() -> None:
    first, again = (only(death(tokens=2000)) for _ in range(2))
    assert replace(first) == replace(again)
    assert len(set(first.measured["dead_total"][0])) > 1
