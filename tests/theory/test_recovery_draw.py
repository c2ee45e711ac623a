"""The combinations that test the law of recovery: drawn evenly, within the range, and committed as a configuration."""

from pathlib import Path

import pytest

from benchmarks.recovery_draw import COUNT, FRESH, NORM, RANGES, SEED, TOKENS, draw, main, tokens
from saelib.config.lab import RecoveryExperiment
from saelib.config.load import load_config
from saelib.config.synthetic import SyntheticConfig
from saelib.synthetic import make_data


def test_combinations_are_drawn_by_their_seed_within_the_range_and_the_limit() -> None:
    drawn = draw(seed=3, count=50)
    assert drawn == draw(seed=3, count=50) != draw(seed=4, count=50)
    for one in drawn:
        assert all(low <= one[name] <= high for name, (low, high) in RANGES.items())
        assert tokens(one) < TOKENS
    for name, (low, high) in RANGES.items():  # the lower and the upper half of every range
        middle = (low * high) ** 0.5
        assert 10 < sum(one[name] > middle for one in drawn) < 40


def test_the_committed_configuration_has_combinations_within_the_range() -> None:
    experiments = load_config(FRESH).experiments
    assert len(experiments) == COUNT
    for experiment in experiments.values():
        assert isinstance(experiment, RecoveryExperiment)
        (cell,) = experiment.cells()
        assert isinstance(cell.data, SyntheticConfig)
        (variant,) = experiment.variants.values()
        found = {
            **dict(cell.data),
            **dict(cell.sae),
            **cell.settings,
            "memory": 1 / (1 - getattr(variant.optimizer, "beta2", 0.0)),
        }
        assert all(0.999 * low <= found[name] <= 1.001 * high for name, (low, high) in RANGES.items())


def test_the_configuration_is_made_of_what_is_drawn(tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "drawn.yaml")])
    experiments = load_config(tmp_path / "drawn.yaml").experiments
    for one, experiment in zip(draw(SEED, COUNT), experiments.values(), strict=True):
        (cell,) = experiment.cells()
        assert isinstance(cell.data, SyntheticConfig)
        assert cell.sae.d_sae == one["d_sae"]
        assert make_data(cell.data, 0).signal_norm == pytest.approx(NORM * one["signal_scale"], rel=0.01)
