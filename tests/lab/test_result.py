"""Results of cells: intervals are Student's, files come back as they were, and damage is refused."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from saelib.errors import UserError
from saelib.lab.result import cell_result, interval, load_cell, rows_of, save_cell
from saelib.lab.training import Row, collateral_ratio


def test_intervals_are_students() -> None:
    values = np.random.default_rng(0).normal(size=7).tolist()
    found = interval(values)
    low, high = stats.t.interval(0.95, 6, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).normal(3.0, 2.0, (4000, 5))
    intervals = [interval(row.tolist()) for row in draws]
    covered = np.mean([found.low <= 3 <= found.high for found in intervals])  # type: ignore[operator]
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4000))


def test_one_seed_has_no_interval_and_undefined_seeds_are_left_out() -> None:
    assert interval([2.0, None]) == interval([2.0])
    assert (interval([2.0]).mean, interval([2.0]).low) == (2.0, None)
    assert interval([None]).mean is None


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    records = [({"tokens": n, "preprocessing": "raw"}, {"dead": [0.1 * n, float("nan")]}) for n in (1, 2)]
    result = cell_result(records, {"predicted": [0.5, None]})
    save_cell(result, tmp_path / "cell.json", "key")
    found = load_cell(tmp_path / "cell.json")
    assert (found, found.key) == (result, "key")
    first, second = rows_of(found, {"gamma": 3})
    assert first == {
        "gamma": 3,
        "tokens": 1,
        "preprocessing": "raw",
        "seeds": 2,
        "predicted": 0.5,
        "dead": 0.1,
        "dead_low": None,
        "dead_high": None,
    }
    assert (second["tokens"], second["dead"], second["predicted"]) == (2, 0.2, None)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cell.json").write_text('{"at": {}}')
    with pytest.raises(UserError, match=r"cell.json: measured: "):
        load_cell(tmp_path / "cell.json")


def test_the_collateral_ratio_is_over_the_window_of_the_collapse() -> None:
    """The threshold rises until row 1, has lost nine tenths of its fall at row 3, and what follows does not count."""
    threshold = [5.0, 20.0, 12.0, 1.9, 1.0, 0.0]
    relu, topk = [0.30, 0.34, 0.40, 0.44, 0.90, 0.90], [0.65, 0.60, 0.50, 0.20, 0.10, 0.10]
    rows: list[Row] = [
        {"mean_kth_activation": t, "dead_relu": r, "dead_topk_only": k, "signal_norm": 3.0}
        for t, r, k in zip(threshold, relu, topk, strict=True)
    ]
    assert collateral_ratio(rows) == pytest.approx((0.44 - 0.34) / (0.60 - 0.20))
    assert collateral_ratio([row | {"dead_topk_only": 0.5} for row in rows]) is None
    assert collateral_ratio(rows[:3]) is None  # the threshold is 12, so the collapse is not over
    assert collateral_ratio([row | {"mean_kth_activation": None} for row in rows]) is None
