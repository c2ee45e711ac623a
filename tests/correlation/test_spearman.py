"""Laws of the rank correlation, against scipy and against plain resampling."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from saelib.correlation import spearman, spearman_table

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "init_stats.csv"


def tied_pairs(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = np.round(rng.normal(size=n), 1)
    return x, np.maximum(np.round(x + rng.normal(size=n), 1), 0)


def test_agrees_with_scipy_where_values_are_tied():
    x, y = tied_pairs()
    assert spearman(x, y, 10, 0).rho == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)


def test_interval_is_the_percentile_bootstrap():
    x, y = tied_pairs()
    rng = np.random.default_rng(2)
    draws = [stats.spearmanr(x[rows], y[rows])[0] for rows in rng.integers(len(x), size=(2000, len(x)))]
    result = spearman(x, y, 20_000, 0)
    assert [result.ci_low, result.ci_high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)


def test_monotone_maps_change_nothing_and_a_reversal_changes_the_sign():
    x, y = tied_pairs()
    plain, bent, reversed_ = spearman(x, y, 200, 3), spearman(np.exp(x), y**3, 200, 3), spearman(-x, y, 200, 3)
    assert bent == plain
    assert plain.rho is not None
    assert reversed_.rho == pytest.approx(-plain.rho)
    assert [reversed_.ci_low, reversed_.ci_high] == pytest.approx(-np.array([plain.ci_high, plain.ci_low], float))


def test_perfect_order_is_exactly_one_with_its_interval():
    result = spearman(np.arange(10.0), np.arange(10.0) ** 2, 500, 0)
    assert (result.rho, result.ci_low, result.ci_high) == (1, 1, 1)


def test_missing_values_are_left_out_and_counted():
    x, y = tied_pairs(40)
    gaps_x, gaps_y = np.append(x, [np.nan, 1.0, np.nan]), np.append(y, [1.0, np.nan, np.nan])
    with_gaps, without = spearman(gaps_x, gaps_y, 100, 0), spearman(x, y, 100, 0)
    assert (with_gaps.n, with_gaps.n_left_out) == (40, 3)
    assert (with_gaps.rho, with_gaps.ci_low) == (without.rho, without.ci_low)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1.0, 2.0], [1.0, 2.0], "fewer than 3"),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "same value everywhere"),
        ([np.nan, 2.0, 3.0], [1.0, 2.0, 3.0], "fewer than 3"),
        ([], [], "fewer than 3"),
    ],
)
def test_no_correlation_comes_with_a_reason(x: list[float], y: list[float], reason: str):
    result = spearman(x, y, 10, 0)
    assert result.rho is None
    assert result.ci_low is None
    assert reason in result.reason


def test_resamples_with_one_constant_side_have_no_say():
    """More than a third of the resamples of this column are all zeros; rounding must not make correlations of them."""
    y = np.zeros(40)
    y[-1] = 0.3
    result = spearman(np.arange(40.0), y, 2000, 0)
    assert result.ci_low is not None
    assert result.ci_low > 0.1


def test_cluster_bootstrap_draws_whole_clusters():
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=40), np.repeat([f"m{i}" for i in range(8)], 5)
    y = x + np.repeat(rng.normal(size=8), 5)
    draws = []
    for chosen in rng.integers(8, size=(2000, 8)):
        rows = np.concatenate([np.arange(5 * c, 5 * c + 5) for c in chosen])
        draws.append(stats.spearmanr(x[rows], y[rows])[0])
    result = spearman(x, y, 20_000, 0, clusters=labels)
    assert [result.ci_low, result.ci_high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)


def test_repeating_every_row_does_not_narrow_the_cluster_interval():
    x, y = tied_pairs(30)
    once = spearman(x, y, 4000, 0)
    thrice = spearman(np.repeat(x, 3), np.repeat(y, 3), 4000, 0, clusters=np.repeat(np.arange(30), 3))
    assert (thrice.ci_low, thrice.ci_high) == pytest.approx((once.ci_low, once.ci_high), abs=1e-12)


def test_two_clusters_make_no_interval():
    result = spearman([1.0, 2, 3, 4], [1.0, 3, 2, 4], 100, 0, clusters=["a", "a", "b", "b"])
    assert result.rho == pytest.approx(0.8)
    assert result.ci_low is None
    assert "2 clusters" in result.reason


def test_same_seed_same_interval():
    x, y = tied_pairs()
    assert spearman(x, y, 100, 5) == spearman(x, y, 100, 5)
    assert spearman(x, y, 100, 5).ci_low != spearman(x, y, 100, 6).ci_low


def test_table_has_all_rows_first_then_each_group():
    x, y = tied_pairs()
    frame = pl.DataFrame({"model": np.arange(60) % 6, "domain": ["b", "a"] * 30, "gamma": x, "dead": y}).with_columns(
        gamma=pl.when(pl.int_range(60) == 0).then(None).otherwise("gamma")
    )
    rows = spearman_table(frame, "gamma", "dead", ["domain"], bootstrap=100, seed=0)
    assert [row["scope"] for row in rows] == ["overall", "a", "b"]
    assert [(row["n"], row["n_left_out"]) for row in rows] == [(59, 1), (30, 0), (29, 1)]
    assert rows[1]["rho"] == pytest.approx(stats.spearmanr(x[1::2], y[1::2])[0])
    by_model = spearman(frame["gamma"], frame["dead"], 100, 0, clusters=frame["model"])
    assert (rows[0]["ci_low_models"], rows[0]["ci_high_models"]) == (by_model.ci_low, by_model.ci_high)
    assert rows[0]["ci_low"] != by_model.ci_low
    assert rows[1]["ci_low_models"] is None


@pytest.mark.skipif(not REFERENCE.exists(), reason="the paper's released table is not here")
def test_the_papers_released_table():
    frame = pl.read_csv(REFERENCE)
    expected = {
        ("gamma", "topk"): (0.914, 0.897, 0.923, 0.977),
        ("gamma", "relu"): (0.830, 0.853, 0.611, 0.957),
        ("gamma_raw", "topk"): (0.620, 0.944, 0.045, 0.186),
        ("gamma_raw", "relu"): (0.574, 0.882, 0.022, 0.187),
    }
    intervals = {}
    for (x, death), rhos in expected.items():
        rows = spearman_table(frame, x, f"dead_pct_init_{death}", ["domain"], bootstrap=2000, seed=0)
        assert [row["rho"] for row in rows] == pytest.approx(rhos, abs=5e-4)
        intervals[x, death] = (rows[0]["ci_low"], rows[0]["ci_high"])
    assert intervals["gamma", "topk"] == pytest.approx((0.887, 0.935), abs=0.004)
    assert intervals["gamma", "relu"] == pytest.approx((0.788, 0.867), abs=0.004)


def test_importing_stays_light():
    heavy = "scipy", "matplotlib", "polars", "altair", "torch"
    code = f"import saelib.correlation, saelib.recommend, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
