"""What is read of a sweep is what training wrote, and a file that holds something else is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saelib.config import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.train.result import DivergedRun, MeasuredRun, load_sweep, run_entry


@pytest.fixture
def path(train_on: Callable[..., Path]) -> Path:
    """A sweep of two learning rates, one of which diverges."""
    x = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32) + 2
    config = TrainConfig(d_sae=16, k=2, batch_size=64, steps=20, record_every=5, learning_rates=(1e-3, 1e30))
    return train_on(x[:500], x[500:], config, VariantConfig()) / "sweep.json"


def test_what_is_read_is_what_was_written(path: Path) -> None:
    raw, sweep = json.loads(path.read_text()), load_sweep(path)
    assert [type(run) for run in sweep.runs] == [MeasuredRun, DivergedRun]
    assert [run_entry(run) for run in sweep.runs] == raw["runs"]
    assert [list(run_entry(run)) for run in sweep.runs] == [list(run) for run in raw["runs"]]
    assert sweep.options.model_dump(mode="json", exclude={"seed", "d_sae"}) == raw["options"]
    assert sweep.best is sweep.runs[0]
    assert sweep.learning_rate_at_end == raw["learning_rate_at_end"] == "low"
    for name in ("key", "model", "layer", "variant", "d_in", "d_sae", "k", "steps", "preprocessing_reason", "backend"):
        assert getattr(sweep, name) == raw[name]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": "20"}, "steps"),
        ({"options": {"optimizer": "none such"}}, r"options\.optimizer"),
        ({"runs": [{"learning_rate": 1e-3, "status": "fine"}]}, r"runs\.0"),
        ({"runs": [{"learning_rate": 1e-3, "status": "ok"}]}, r"runs\.0\.ok\.mse"),
        ({"best_learning_rate": float("inf")}, "best_learning_rate"),
    ],
)
def test_a_sweep_that_is_none_is_refused_with_its_file_and_field(
    path: Path, change: dict[str, Any], field: str
) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"sweep\.json: {field}"):
        load_sweep(path)


def test_the_report_reads_sweeps_without_torch() -> None:
    code = "import sys, saelib.report.stage; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
