"""The law of recovery next to measured steps, in the lab's table and figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saelib.config import Config
from saelib.config.load import check_config
from saelib.config.synthetic import SyntheticConfig
from saelib.lab.result import cell_result, save_cell
from saelib.report.figures.lab import lab_figures
from saelib.report.lab import ExperimentTable, read_lab
from saelib.theory.recovery import recovery_steps


def found(results: Path, **changes: Any) -> ExperimentTable:
    """Reads an experiment whose cells took ten times the least steps, with a mean of 2 gamma."""
    experiment = {
        "kind": "recovery",
        "shows": "a test",
        "data": {"gamma": [5, 10, 20], "signal_scale": 0.3},
        "learning_rate": 0.004,
        "batch_size": 256,
        "figures": {"main": {"x": "predicted_steps_bias_50", "y": ["steps_bias_50"], "lines": [], "marks": "points"}},
    }
    config: Config = check_config({"results": str(results), "experiments": {"e": experiment | changes}}, "lab")
    for cell in config.experiments["e"].cells():
        assert isinstance(cell.data, SyntheticConfig)
        gamma, several = cell.data.gamma or 0.0, cell.data.outlier_dimensions
        least = 2 * gamma / several**0.5 / 0.004
        values = {
            "steps_bias_50": [10 * least],
            "gamma_seen": [gamma],
            "mean_norm": [2 * gamma],
            "least_steps": [least],
        }
        save_cell(cell_result([({}, values)]), config.lab_path("e", cell), "key")
    (table,) = read_lab(config, {})
    return table


def test_the_table_has_the_prediction_of_the_command(tmp_path: Path) -> None:
    row = found(tmp_path).rows.filter(gamma=20).row(0, named=True)
    expected = recovery_steps(20, 40, 0.004, batch_size=256)
    assert row["predicted_steps_bias_50"] == pytest.approx(expected.bias_50)
    assert row["predicted_steps_bias_99"] == pytest.approx(expected.bias_99)


def test_the_memory_of_adam_is_part_of_the_prediction(tmp_path: Path) -> None:
    variants = {"short": {"optimizer": {"kind": "adam", "beta2": 0.99}}}
    row = found(tmp_path, variants=variants).rows.filter(gamma=20).row(0, named=True)
    assert row["predicted_steps_bias_50"] == pytest.approx(
        recovery_steps(20, 40, 0.004, batch_size=256, beta2=0.99).bias_50
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"variants": {"alone": {"frozen": "features"}}},
        {"variants": {"signs": {"optimizer": "sign_sgd"}}},
        {"variants": {"centered": {"preprocessing": "center_median"}}},
        {"variants": {"relu": {"architecture": "relu"}}},
        {"data": {"gamma": [5, 10], "outlier_dimensions": 4}},
    ],
)
def test_trainings_that_the_law_is_not_about_get_no_prediction(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert not [name for name in found(tmp_path, **changes).rows.columns if name.startswith("predicted_")]


def test_a_figure_of_predictions_draws_the_diagonal(tmp_path: Path) -> None:
    (figure,) = lab_figures(found(tmp_path)).values()
    assert figure is not None
    axes = figure.axes[0]
    lines = [np.asarray(line.get_data()) for line in axes.lines]
    (diagonal,) = (line for line in lines if line.size)
    np.testing.assert_array_equal(diagonal[0], diagonal[1])
    assert np.asarray(axes.collections[0].get_offsets()).shape == (3, 2)
