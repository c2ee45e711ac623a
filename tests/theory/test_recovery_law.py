"""The law of recovery: what it must say whatever its constants are, and that the constants are those of the table."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.recovery import TABLE, Errors, Training, fit, held_out, read_table, revival, write_table
from saelib.errors import UserError
from saelib.theory.recovery import ERRORS, LAWS, REFERENCE, SHARES, TESTED, Law, RecoverySteps, recovery_steps

TYPICAL: dict[str, Any] = {"gamma": 20, "mean_norm": 20, "learning_rate": 4e-3, "batch_size": 256}


def predict(**changed: Any) -> RecoverySteps:
    return recovery_steps(**TYPICAL | changed)


def steps(**changed: Any) -> list[float]:
    found = predict(**changed)
    return [found.bias_50, found.bias_90, found.bias_99]


def trainings() -> list[Training]:
    return [one for one in read_table(TABLE) if one.covered]


@pytest.mark.parametrize(
    ("sooner", "later"),
    [
        ({"learning_rate": 8e-3}, {"learning_rate": 4e-3}),
        ({"gamma": 10, "mean_norm": 10}, {"gamma": 20, "mean_norm": 20}),  # the same signal
        ({"mean_norm": 10}, {"mean_norm": 20}),  # the same gamma: all data at another scale
        ({"beta2": 0.99}, {"beta2": 0.999}),
        ({"batch_size": 64}, {"batch_size": 1024}),
    ],
)
def test_recovery_takes_longer(sooner: dict[str, Any], later: dict[str, Any]) -> None:
    assert all(a < b for a, b in zip(steps(**sooner), steps(**later), strict=True))


def test_events_come_in_order_and_never_before_a_bias_could_be_there() -> None:
    for changed in (
        {},
        {"learning_rate": 1e-8},
        {"mean_norm": 1e6},
        {"mean_norm": 1e-4},
        {"beta2": 0.0},
        {"gamma": 1e5},
    ):
        found = predict(**changed)
        half, most, nearly = found.bias_50, found.bias_90, found.bias_99
        assert half <= most <= nearly
        assert [half, most, nearly] >= [share * found.least for share in SHARES.values()]


def test_an_immeasurably_slow_rate_needs_the_least_steps_of_a_bias() -> None:
    found = predict(learning_rate=1e-4, beta2=0.0)
    assert found.least == pytest.approx(200_000)
    assert found.bias_50 == pytest.approx(0.5 * found.least)


def test_a_power_of_a_setting_is_the_slope_of_the_logarithm() -> None:
    law = Law(1000, {"gamma": 0.5, "k": -1})
    at = dict(REFERENCE)
    assert law.steps(at) == pytest.approx(1000)
    assert law.steps(at | {"gamma": 4 * at["gamma"], "k": 2 * at["k"]}) == pytest.approx(1000)


def test_latents_come_to_life_with_the_bias_or_not_at_all() -> None:
    gentle = predict(learning_rate=5e-4)
    assert gentle.revived == gentle.bias_99
    assert predict(learning_rate=2e-2).revived is None


def test_settings_outside_of_the_tested_range_are_named() -> None:
    assert predict().outside == ()
    (about_width,) = predict(d_sae=8192).outside
    assert about_width == "d_sae = 8192 is outside of the tested range, 50 to 160"
    (about_mean,) = predict(mean_largest=5).outside
    assert "only 25% of the norm of the mean" in about_mean


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gamma": 0}, "gamma = 0: must be a finite number above 0"),
        ({"mean_norm": math.inf}, "mean_norm = inf: must be"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0: must be"),
        ({"learning_rate": math.nan}, "learning_rate = nan: must be"),
        ({"beta2": 1.0}, "beta2 = 1.0: must be 0 or more and below 1"),
        ({"mean_largest": 21}, "mean_largest = 21 exceeds mean_norm = 20"),
        ({"k": 200}, "k = 200, d_sae = 100: k must lie between 1 and d_sae"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        predict(**changed)


@pytest.mark.parametrize("event", LAWS)
def test_the_constants_are_those_that_the_fit_to_the_table_gives(event: str) -> None:
    fitted, stored = fit(trainings(), event), LAWS[event]
    assert stored.factor == pytest.approx(fitted.factor, rel=0.01)
    assert stored.powers == pytest.approx(fitted.powers, abs=0.006)


@pytest.mark.parametrize("event", LAWS)
def test_the_stated_error_is_that_of_trainings_left_out(event: str) -> None:
    assert ERRORS[event] == pytest.approx(held_out(trainings(), event).ninety, abs=0.006)


def test_the_tested_range_is_that_of_the_table() -> None:
    for name, ends in TESTED.items():
        values = [one.settings[name] for one in trainings()]
        assert ends == pytest.approx((min(values), max(values)), rel=0.02)


def test_the_rule_of_revival_is_right_for_nine_in_ten_trainings_of_the_table() -> None:
    found = revival(trainings())
    assert 0 < found["came_to_life"] < found["trainings"]
    assert found["rule_right"] >= 0.9 * found["trainings"]


def test_larger_saes_are_in_the_table_but_not_in_the_fit() -> None:
    assert any(one.d_in > TESTED["d_in"][1] for one in read_table(TABLE))
    assert not any(one.d_in > TESTED["d_in"][1] for one in trainings())


def test_a_fit_finds_the_law_that_made_the_steps() -> None:
    law = Law(5000, {"gamma": 0.7, "signal_norm": 0.3, "learning_rate": -0.8, "batch_size": 0.1, "memory": 0.5})
    law = replace(law, powers=dict.fromkeys([*REFERENCE, "interplay"], 0.0) | dict(law.powers))
    made = [replace(one, bias_50=law.steps(one.settings)) for one in trainings()]
    found = fit([*made, replace(made[0], bias_50=None)], "bias_50")
    assert found.factor == pytest.approx(law.factor, rel=0.02)
    assert found.powers == pytest.approx(law.powers, abs=0.02)
    assert held_out(made, "bias_50").ninety < 0.02


def test_errors_are_relative_to_what_was_measured() -> None:
    found = asdict(Errors.of([1.1, 0.7, 1.0]))
    assert found == pytest.approx({"predictions": 3, "median": 0.1, "ninety": 0.26, "worst": 0.3, "within_20": 2 / 3})


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    known = read_table(TABLE)
    write_table(tmp_path / "copy.csv", known)
    assert read_table(tmp_path / "copy.csv") == known
    assert any(one.revived is None for one in known)
