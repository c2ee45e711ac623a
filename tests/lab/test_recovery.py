"""Experiments of kind `recovery`: when the bias holds the mean, and when latents have come to life."""

from pathlib import Path
from typing import Any

import pytest

from saelib.config.lab import RecoveryExperiment
from saelib.lab import recovery
from saelib.lab.checkpoint import Checkpoint
from saelib.lab.recovery import PATIENCE, REVIVED, Row, crossing
from saelib.lab.trainees import Class, Trainee
from tests.lab.cells import run


def experiment(**changed: Any) -> RecoveryExperiment:
    content = {"kind": "recovery", "shows": "a test", "data": {"gamma": 10, "signal_scale": 0.1}, "seeds": 2}
    content |= {"learning_rate": 0.01, "batch_size": 128, "steps": 4000, "heldout_tokens": 1000}
    return RecoveryExperiment.model_validate(content | changed)


def trainee(**changed: Any) -> Trainee:
    one = experiment(**changed)
    return Trainee(one, next(one.cells()), seed=0)


def recover(one: Trainee) -> Row:
    return recovery.recover(Class([one]), Checkpoint(Path("nowhere"), "never saved"))


def test_a_bias_that_trains_alone_by_signs_moves_by_the_learning_rate_a_step() -> None:
    alone = {"frozen": "features", "optimizer": "sign_sgd"}
    found = recover(trainee(variants={"alone": alone}, data={"gamma": 10, "signal_scale": 0.4}))
    for name, share in {"steps_bias_50": 0.5, "steps_bias_90": 0.9}.items():
        assert found[name] == pytest.approx(share * (found["least_steps"] or 0), rel=0.02)


def test_least_steps_and_severity_are_those_of_the_data() -> None:
    one = trainee(steps=1)
    found = recover(one)
    assert found["least_steps"] == pytest.approx(one.data.offset[0] / 0.01, rel=0.1)
    assert found["gamma_seen"] == pytest.approx(10)
    assert found["steps_bias_50"] is None
    assert found["steps_revived"] is None


def test_a_centered_sae_has_recovered_before_the_first_step() -> None:
    found = recover(trainee(variants={"centered": {"preprocessing": "center_median"}}))
    assert [found[name] for name in ("steps_bias_50", "steps_bias_90", "steps_revived")] == [0, 0, 0]


def test_events_come_in_order_and_sooner_with_a_larger_rate() -> None:
    slow, fast = (recover(trainee(learning_rate=rate, steps=9_000)) for rate in (0.01, 0.04))
    for found in (slow, fast):
        half, most = found["steps_bias_50"], found["steps_bias_90"]
        assert half is not None
        assert most is not None
        assert (found["least_steps"] or 0) / 2 < half < most
    assert (slow["steps_bias_90"] or 0) > 1.5 * (fast["steps_bias_90"] or 0)


def test_a_training_whose_latents_stay_dead_ends_soon_after_the_bias_is_home() -> None:
    found = recover(trainee(learning_rate=0.04, steps=20_000))
    assert found["steps_revived"] is None
    assert found["last_step"] == pytest.approx(PATIENCE * (found["steps_bias_99"] or 0), rel=0.03)
    assert (found["dead_relu_last"] or 0) >= REVIVED


def test_a_cell_has_a_value_for_each_seed() -> None:
    content = experiment(steps=50).model_dump(mode="json", exclude={"shows"}, exclude_unset=True)
    result = run(**content)["all"]
    assert set(result.measured) >= {"steps_bias_50", "steps_revived", "least_steps"}
    assert all(len(values) == 2 for rows in result.measured.values() for values in rows)


def test_a_crossing_is_interpolated_and_the_first_one() -> None:
    assert crossing([0, 10, 30, 40], [0, 0.2, 0.6, 0.1], 0.4) == 20
    assert crossing([0, 10], [0.7, 0.9], 0.5) == 0
    assert crossing([0, 10], [0.1, 0.2], 0.5) is None
