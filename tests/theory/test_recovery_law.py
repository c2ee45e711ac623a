"""The law of recovery: what it must say whatever its constants are, and that the constants are those of the table."""

import math
import re
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad

from benchmarks.recovery import (
    TABLE,
    Errors,
    Powers,
    Training,
    constants,
    fit,
    held_out,
    later,
    noise,
    read_table,
    revival,
    write_table,
)
from saelib.errors import UserError
from saelib.theory.recovery import ERRORS, LAW, REFERENCE, SHARES, TESTED, Law, RecoverySteps, recovery_steps, slowed

TYPICAL: dict[str, Any] = {"gamma": 20, "mean_norm": 20, "learning_rate": 4e-3, "batch_size": 256}


LONG: dict[str, Any] = dict(REFERENCE) | {"learning_rate": 1e-7, "memory": 1.0}
"""Settings whose memory is so short that it plays no part."""


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
        ({"gamma": 2, "mean_norm": 2}, {"gamma": 4, "mean_norm": 4}),  # below the tested range
        ({"gamma": 80, "learning_rate": 8e-3}, {"gamma": 80, "learning_rate": 1e-4}),  # above it
    ],
)
def test_recovery_takes_longer(sooner: dict[str, Any], later: dict[str, Any]) -> None:
    assert all(a < b for a, b in zip(steps(**sooner), steps(**later), strict=True))


def test_more_dimensions_shorten_the_later_events_alone() -> None:
    few, many = steps(d_in=25), steps(d_in=200)
    assert few[0] == many[0]
    assert steps(d_in=4096) == many
    assert few[1] > many[1]
    assert few[2] > many[2]


@pytest.mark.parametrize("gamma", [2.0, 10.0, 60.0])
@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1.6e-2])
def test_recovery_takes_longer_with_gamma_and_with_smaller_rates_at_every_severity(gamma: float, rate: float) -> None:
    def half(gamma: float, rate: float) -> float:
        return predict(gamma=gamma, mean_norm=gamma, learning_rate=rate).bias_50

    assert half(gamma, rate) < half(1.5 * gamma, rate)
    assert half(gamma, rate) < half(gamma, rate / 1.5)


def test_the_powers_of_a_long_way_are_those_that_were_derived() -> None:
    def power(name: str, event: str) -> float:
        return math.log2(LAW.steps(event, LONG | {name: 2 * LONG[name]}) / LAW.steps(event, LONG))

    assert power("batch_size", "bias_50") == pytest.approx(1 / 3, abs=1e-3)
    assert power("mean_norm", "bias_90") == pytest.approx(2 / 3, abs=1e-3)
    assert power("d_in", "bias_99") == pytest.approx(-2 / 3, abs=1e-3)


def test_without_a_mean_there_is_nothing_to_wait_for() -> None:
    assert predict(gamma=1e-6, mean_norm=1e-6).bias_99 < 1


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


def test_a_mean_of_a_huge_norm_needs_the_least_steps_of_a_bias() -> None:
    found = predict(mean_norm=1e7)
    assert found.bias_99 == pytest.approx(0.99 * found.least)


@pytest.mark.parametrize("undisturbed", [3.0, 500.0, 1e5])
@pytest.mark.parametrize("disturbance", [1e-3, 10.0, 1e7])
def test_a_slowed_bias_has_gone_its_way_when_the_closed_form_says(undisturbed: float, disturbance: float) -> None:
    memory = 300.0
    t = float(slowed(undisturbed, disturbance, memory))
    gone, _ = quad(lambda s: 1 / math.sqrt(1 + disturbance * math.exp(-s / memory)), 0, t, limit=1000)
    assert gone == pytest.approx(undisturbed, rel=1e-6)


def test_without_disturbance_nothing_is_slowed() -> None:
    assert slowed(500.0, 1e-9, 1000.0) == pytest.approx(500, rel=1e-6)


def test_a_long_way_ends_later_by_the_time_that_the_disturbance_lasts() -> None:
    assert slowed(1e6, 1e9, 1000.0) - 1e6 == pytest.approx(1000 * math.log(1e9 / 4), rel=1e-5)


def test_the_law_takes_arrays_as_it_takes_numbers() -> None:
    at = REFERENCE | {"gamma": np.array([5.0, 20.0])}
    assert LAW.steps("bias_90", at) == pytest.approx([LAW.steps("bias_90", REFERENCE | {"gamma": g}) for g in (5, 20)])


def test_latents_come_to_life_with_the_bias_or_not_at_all() -> None:
    gentle = predict(learning_rate=5e-4)
    assert gentle.revived == gentle.bias_99
    assert predict(learning_rate=2e-2).revived is None


@pytest.mark.parametrize(("gamma", "revived"), [(0.2, 0.0), (1.0, 0.0), (2.5, None)])
def test_at_a_small_gamma_hardly_a_latent_is_born_dead(gamma: float, revived: float | None) -> None:
    found = predict(gamma=gamma, mean_norm=gamma, learning_rate=1e-2)
    assert found.revived == revived
    assert found.outside[0] == f"gamma = {gamma:g} is outside of the tested range, 5 to 40"


def test_settings_outside_of_the_tested_range_are_named() -> None:
    assert predict().outside == ()
    (about_width,) = predict(d_sae=8192).outside
    assert about_width == "d_sae = 8192 is outside of the tested range, 50 to 800"
    (about_mean,) = predict(mean_largest=5).outside
    assert "only 25% of the norm of the mean" in about_mean


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gamma": 0}, "gamma = 0: must lie between 1e-12 and 1e12"),
        ({"mean_norm": math.inf}, "mean_norm = inf: must lie"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0: must lie"),
        ({"learning_rate": math.nan}, "learning_rate = nan: must lie"),
        ({"gamma": 1e300}, "gamma = 1e+300: must lie between 1e-12 and 1e12"),
        ({"beta2": 1.0}, "beta2 = 1.0: must be 0 or more and below 1"),
        ({"mean_largest": 21}, "mean_largest = 21 exceeds mean_norm = 20"),
        ({"k": 200}, "k = 200, d_sae = 100: k must lie between 1 and d_sae"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        predict(**changed)


def test_the_constants_are_those_that_the_fit_to_the_table_gives() -> None:
    assert constants(LAW) == pytest.approx(constants(fit(trainings())), abs=0.006)


def test_the_stated_errors_are_those_of_trainings_that_ran_later() -> None:
    assert {event: errors.ninety for event, errors in later(LAW).items()} == pytest.approx(dict(ERRORS), abs=0.006)


def test_the_tested_range_is_that_of_the_table() -> None:
    for name, ends in TESTED.items():
        values = [one.settings[name] for one in trainings()]
        assert ends == pytest.approx((min(values), max(values)), rel=0.02)


def test_the_rule_of_revival_is_right_for_nine_in_ten_trainings_of_the_table() -> None:
    found = revival(trainings())
    assert 0 < found["came_to_life"] < found["trainings"]
    assert found["rule_right"] >= 0.9 * found["trainings"]


def test_a_fit_finds_the_law_that_made_the_steps() -> None:
    law = Law(dict(zip(SHARES, (5e3, 1e4, 2e4), strict=True)), 0.1, -1.2, -0.1, 0.3, 1e5)
    made = [replace(one, **{event: float(law.steps(event, one.settings)) for event in SHARES}) for one in trainings()]
    found = fit([*made, replace(made[0], bias_50=None)])
    assert constants(found) == pytest.approx(constants(law), rel=1e-3)
    found = held_out(made, splits=1)
    assert all(found[event].worst < 1e-3 for event in SHARES)


def test_powers_fit_a_product_of_powers_but_predict_the_trainings_worse_than_the_law() -> None:
    known = trainings()
    made = [replace(one, **dict.fromkeys(SHARES, 10 * one.gamma**0.5 * one.memory)) for one in known]
    by_powers = held_out(made, 1, Powers.fit)
    assert all(by_powers[event].worst < 1e-6 for event in SHARES)
    by_powers, by_law = held_out(known, 1, Powers.fit), held_out(known, 1)
    assert all(by_powers[event].ninety > by_law[event].ninety for event in SHARES)


def test_noise_is_the_standard_deviation_over_seeds() -> None:
    known = trainings()
    others = [replace(one, bias_50=one.bias_50 and one.bias_50 * 1.1**sign) for one, sign in zip(known, cycle((1, -1)))]
    found = noise(known, [*others[:20], replace(others[0], k=3)])
    assert found["pairs"] == 20
    assert found["bias_50"] == pytest.approx(math.log(1.1) / 2**0.5)
    assert found["bias_99"] == 0


def test_errors_are_relative_to_what_was_measured() -> None:
    found = asdict(Errors.of([1.1, 0.7, 1.0]))
    assert found == pytest.approx({"predictions": 3, "median": 0.1, "ninety": 0.26, "worst": 0.3, "within_20": 2 / 3})


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    known = read_table(TABLE)
    write_table(tmp_path / "copy.csv", known)
    assert read_table(tmp_path / "copy.csv") == known
    assert any(one.revived is None for one in known)
