"""Laws of the rank correlation, against scipy; what its intervals cover is simulated in test_coverage.py."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from saelib.stats.correlation import Spearman, spearman, spearman_table

RELEASED = Path(__file__).parents[1] / "data" / "released_layers.csv"


def tied_pairs(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = np.round(rng.normal(size=n), 1)
    return x, np.maximum(np.round(x + rng.normal(size=n), 1), 0)


def ends(result: Spearman) -> tuple[float, float]:
    assert result.ci_low is not None
    assert result.ci_high is not None
    return result.ci_low, result.ci_high


def test_agrees_with_scipy_where_values_are_tied():
    x, y = tied_pairs()
    assert spearman(x, y).rho == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.spearmanr(x, y).statistic)  # type: ignore[union-attr]


def expected_interval(x: np.ndarray, y: np.ndarray, labels: np.ndarray, freedom: float) -> tuple[float, float]:
    """The jackknife by its definition, with scipy's correlation, on Fisher's scale."""
    rho = rank_correlation(x, y)
    kept = [labels != label for label in np.unique(labels)]
    squares = np.array([(rank_correlation(x[rows], y[rows]) - rho) ** 2 for rows in kept])
    jackknife = np.sqrt((len(kept) - 1) / len(kept) * squares.sum()) / (1 - rho**2)
    bonett_wright = np.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    reach = stats.t.ppf(0.975, freedom) * max(jackknife, bonett_wright)
    return np.tanh(np.arctanh(rho) - reach), np.tanh(np.arctanh(rho) + reach)


def test_interval_of_single_pairs():
    x, y = tied_pairs()
    assert ends(spearman(x, y)) == pytest.approx(expected_interval(x, y, np.arange(60), 59), abs=1e-12)


def test_interval_over_clusters_of_different_sizes():
    rng = np.random.default_rng(4)
    sizes = [3, 5, 12, 20, 4, 8]
    labels = np.repeat(list("abcdef"), sizes)
    x = rng.normal(size=52) + np.repeat(rng.normal(size=6), sizes)
    y = x + np.repeat(rng.normal(size=6), sizes)
    freedom = 52**2 / sum(size**2 for size in sizes) / 2
    assert ends(spearman(x, y, labels)) == pytest.approx(expected_interval(x, y, labels, freedom), abs=1e-12)
    assert spearman(x, y, labels).n_clusters == 6


def test_monotone_maps_change_nothing_and_a_reversal_changes_the_sign():
    x, y = tied_pairs()
    plain, bent, reversed_ = spearman(x, y), spearman(np.exp(x), y**3), spearman(-x, y)
    assert bent == plain
    assert plain.rho is not None
    assert reversed_.rho == pytest.approx(-plain.rho)
    assert ends(reversed_) == pytest.approx([-end for end in reversed(ends(plain))])


@pytest.mark.parametrize("seed", range(200))
def test_the_estimate_lies_inside_its_interval(seed: int):
    """Few rows and many ties: where resamples that could not be computed were dropped, it lay outside."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 12))
    x = rng.integers(3, size=n).astype(float)
    result = spearman(x, np.maximum(x + rng.integers(-1, 2, size=n), 1))
    if result.ci_low is None:
        assert result.reason
    else:
        assert result.rho is not None
        assert ends(result)[0] < result.rho < ends(result)[1]


def test_one_row_that_differs():
    """One of eight is not zero: rho is 0.577 and the bootstrap said 0.581 to 0.878. It hangs on a single row."""
    result = spearman(np.arange(8.0), np.append(np.zeros(7), 0.3))
    assert result.rho == pytest.approx(0.5774, abs=1e-4)
    assert (result.ci_low, result.ci_high) == (None, None)
    assert result.reason == "no interval: without one pair, one side is the same value everywhere"


@pytest.mark.parametrize("n", [6, 100])
def test_perfect_order_has_no_interval(n: int):
    """Six pairs in order say little about the next; a bootstrap said [1, 1]."""
    result = spearman(np.arange(float(n)), np.arange(float(n)) ** 3)
    assert (result.rho, result.ci_low, result.ci_high) == (pytest.approx(1, abs=1e-14), None, None)
    assert "perfect" in result.reason
    assert spearman(np.arange(float(n)), -np.arange(float(n))).ci_low is None


def test_missing_values_are_left_out_and_counted():
    x, y = tied_pairs(40)
    gaps_x, gaps_y = np.append(x, [np.nan, 1.0, np.nan]), np.append(y, [1.0, np.nan, np.nan])
    with_gaps, without = spearman(gaps_x, gaps_y), spearman(x, y)
    assert (with_gaps.n, with_gaps.n_left_out) == (40, 3)
    assert (with_gaps.rho, with_gaps.ci_low) == (without.rho, without.ci_low)


def test_huge_and_infinite_values_are_ranks_like_all_others():
    x, y = tied_pairs()
    top, bottom = x.argmax(), x.argmin()
    huge = x.copy()
    huge[x == x[top]], huge[x == x[bottom]] = np.inf, -1e300
    assert spearman(huge, y) == spearman(x, y)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1.0, 2.0], [1.0, 2.0], "2 pairs: fewer than 3"),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "same value everywhere"),
        ([np.nan, 2.0, np.nan], [1.0, 2.0, 3.0], "1 pair: fewer than 3"),
        ([], [], "0 pairs: fewer than 3"),
    ],
)
def test_no_correlation_comes_with_a_reason(x: list[float], y: list[float], reason: str):
    result = spearman(x, y)
    assert result.rho is None
    assert result.ci_low is None
    assert reason in result.reason


def test_four_pairs_make_no_interval():
    result = spearman([1.0, 2, 3, 4], [1.0, 3, 2, 4])
    assert result.rho == pytest.approx(0.8)
    assert (result.ci_low, result.reason) == (None, "no interval: 4 pairs, fewer than 5")


@pytest.mark.parametrize(("labels", "reason"), [("aaabbb", "2 values of model"), ("aaaaaa", "1 value of model")])
def test_too_few_clusters_make_no_interval(labels: str, reason: str):
    result = spearman([1.0, 2, 3, 4, 5, 6], [1.0, 3, 2, 4, 6, 5], list(labels), unit="model")
    assert result.rho is not None
    assert result.ci_low is None
    assert result.reason == f"no interval: {reason}, fewer than 3"


def test_repeating_every_row_does_not_narrow_the_cluster_interval():
    x, y = tied_pairs(30)
    once = spearman(x, y, np.arange(30))
    thrice = spearman(np.repeat(x, 3), np.repeat(y, 3), np.repeat(np.arange(30), 3))
    assert ends(thrice) == pytest.approx(ends(once), abs=1e-12)
    narrow, wide = ends(spearman(np.repeat(x, 3), np.repeat(y, 3))), ends(thrice)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_many_rows_are_left_out_in_groups(monkeypatch: pytest.MonkeyPatch):
    x = np.random.default_rng(2).normal(size=900)
    y = x * np.random.default_rng(3).normal(size=900)
    exact = ends(spearman(x, y))
    monkeypatch.setattr("saelib.stats.correlation.MOST_CLUSTERS", 300)
    assert ends(spearman(x, y)) == pytest.approx(exact, abs=0.01)
    assert ends(spearman(x, y)) != exact


def layers() -> pl.DataFrame:
    x, y = tied_pairs()
    frame = pl.DataFrame({"model": np.arange(60) % 6, "domain": ["b", "a"] * 30, "gamma": x, "dead": y})
    return frame.with_columns(gamma=pl.when(pl.int_range(60) == 0).then(None).otherwise("gamma"))


def test_table_has_all_rows_first_then_each_group():
    x, y = tied_pairs()
    rows = spearman_table(layers(), "gamma", "dead", ["domain"])
    assert [row["scope"] for row in rows] == ["overall", "a", "b"]
    assert [(row["n"], row["n_left_out"]) for row in rows] == [(59, 1), (30, 0), (29, 1)]
    assert rows[1]["rho"] == pytest.approx(stats.spearmanr(x[1::2], y[1::2])[0])


def test_headline_interval_of_a_table_is_over_whole_models():
    frame = layers()
    rows = spearman_table(frame, "gamma", "dead", ["domain", "model"])
    by_rows = spearman(frame["gamma"], frame["dead"])
    by_models = spearman(frame["gamma"], frame["dead"], frame["model"])
    assert (rows[0]["ci_low"], rows[0]["ci_high"]) == ends(by_models)
    assert (rows[0]["ci_low_rows"], rows[0]["ci_high_rows"]) == ends(by_rows)
    assert [(row["ci_over"], row["n_clusters"]) for row in rows[:3]] == [("model", 6), ("model", 3), ("model", 3)]
    for row in rows[3:]:
        assert row["ci_low"] is None
        assert row["ci_low_rows"] is not None
        assert row["reason"] == "no interval: 1 value of model, fewer than 3"


def test_a_table_without_models_says_that_its_interval_is_over_rows():
    (row,) = spearman_table(layers().drop("model"), "gamma", "dead", [])
    assert (row["ci_over"], row["n_clusters"]) == ("rows", None)
    assert row["ci_low"] == row["ci_low_rows"]


def test_rows_without_a_label_are_a_group_and_a_cluster():
    frame = layers().with_columns(
        domain=pl.when(pl.col("domain") == "a").then(None).otherwise("domain"),
        model=pl.when(pl.col("model") == 5).then(None).otherwise("model"),
        depth=pl.when(pl.int_range(60) < 20).then(float("nan")).otherwise(pl.int_range(60) % 2 * 10.0),
    )
    rows = spearman_table(frame, "gamma", "dead", ["domain", "depth"])
    assert [row["scope"] for row in rows] == ["overall", "b", "(empty)", "0.0", "10.0", "(empty)"]
    assert [row["n"] + row["n_left_out"] for row in rows] == [60, 30, 30, 20, 20, 20]
    assert rows[0]["n_clusters"] == 6


def test_numbers_that_are_labels_stand_in_their_order():
    frame = pl.DataFrame({"x": [1.0, 2, 3], "y": [1.0, 2, 3], "layer": ["10", "9", "last"]})
    assert [row["scope"] for row in spearman_table(frame, "x", "y", ["layer"])[1:]] == ["9", "10", "last"]


def test_the_papers_released_table():
    frame = pl.read_csv(RELEASED)
    assert frame.height == 454
    expected = {
        ("gamma", "topk"): (0.914, 0.897, 0.923, 0.977),
        ("gamma", "relu"): (0.830, 0.853, 0.611, 0.957),
        ("gamma_raw", "topk"): (0.620, 0.944, 0.045, 0.186),
        ("gamma_raw", "relu"): (0.574, 0.882, 0.022, 0.187),
    }
    rows = {}
    for (x, death), rhos in expected.items():
        table = spearman_table(frame, x, f"dead_pct_init_{death}", ["domain"])
        assert [row["rho"] for row in table] == pytest.approx(rhos, abs=5e-4)
        rows[x, death] = table[0]
    # An independent bootstrap of rows gave these.
    assert (rows["gamma", "topk"]["ci_low_rows"], rows["gamma", "topk"]["ci_high_rows"]) == pytest.approx(
        (0.887, 0.935), abs=0.004
    )
    assert (rows["gamma", "relu"]["ci_low_rows"], rows["gamma", "relu"]["ci_high_rows"]) == pytest.approx(
        (0.788, 0.867), abs=0.004
    )
    assert rows["gamma", "topk"]["n_clusters"] == 19
    assert rows["gamma", "topk"]["ci_low"] == pytest.approx(0.683, abs=5e-4)
    assert rows["gamma", "topk"]["ci_high"] == pytest.approx(0.979, abs=5e-4)


def test_importing_stays_light():
    heavy = "scipy", "matplotlib", "polars", "altair", "torch"
    modules = "saelib.stats.correlation, saelib.preprocessing.recommend, sys"
    code = f"import {modules}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
