"""What the benchmarks of predictions count as an error, a miss and a false alarm."""

import numpy as np
import polars as pl
import pytest

from benchmarks import death_law, remedies, theory
from benchmarks.death_law import Comparison


def test_the_target_is_one_point_and_two_standard_errors() -> None:
    def one(predicted: float) -> Comparison:
        return Comparison("m", 1, "512/16", "raw", counted=0.5, predicted=predicted, standard_error=0.01)

    assert not one(0.529).outside
    assert one(0.531).outside
    assert one(0.469).outside
    lines = death_law.table([one(0.5), one(0.6)])
    assert "m layer 1, 512/16, raw: counted 50.0%, predicted 60.0%" in lines[-1]


def test_errors_are_in_points() -> None:
    found = theory.errors_of([0.1, 0.5, 0.9], [0.2, 0.5, 0.6], ["a", "a", "b"])
    assert (found.mae, found.bias, found.largest) == pytest.approx((40 / 3, 20 / 3, 30))
    assert found.by_group == pytest.approx({"a": 5, "b": 30})


def test_parameters_are_chosen_on_other_models() -> None:
    """Each model alone is fitted best by what fits the other worst."""
    counted, models = np.array([0.0, 1.0]), pl.Series(["a", "b"])
    grid = {(1.0, 1.0): np.array([0.0, 0.2]), (2.0, 2.0): np.array([0.7, 1.0])}
    assert theory.leave_one_out(grid, counted, models).tolist() == [0.7, 0.2]


def case(raw: float, center: float, pca: float = 0.0, predicted: float | None = None) -> remedies.Case:
    counted = {"raw": raw, "center_median": center, "pca": pca}
    guess = counted | ({} if predicted is None else {"center_median": predicted})
    return remedies.Case(counted, guess, effective_rank=20, d_in=768, d_sae=2048, k=64)


def test_misses_and_false_alarms_are_told_apart() -> None:
    cases = [case(0.9, 0.2), case(0.9, 0.2, predicted=0.01), case(0.9, 0.01), case(0.9, 0.01, predicted=0.06)]
    found = remedies.judge(cases, remedies.FROM_PROBES)["probes > 5 %"]
    assert (found.cases, found.needed, found.misses, found.false_alarms) == (4, 2, 1, 1)


def test_the_least_invasive_that_is_enough_is_chosen() -> None:
    def chosen(*dead: float) -> str:
        return remedies.least(dict(zip(death_law.PREPROCESSINGS, dead, strict=True)), {})

    assert chosen(0.01, 0.0, 0.0) == "raw"
    assert chosen(0.5, 0.05, 0.0) == "center_median"
    assert chosen(0.5, 0.3, 0.0) == "pca"
    assert chosen(0.5, 0.3, 0.4) == "center_median"
