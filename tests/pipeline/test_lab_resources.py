"""Memory that the lab's jobs ask for, against the memory that they take."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from saelib.config.load import check_config
from saelib.pipeline.lab_resources import lab_mb

JOB = """
import json, sys
from saelib.lab import checkpoint
from tests.lab.cells import run

checkpoint.EVERY_SECONDS = 0.0  # so that the peak includes a checkpoint
run(**json.loads(sys.argv[1]))
# Not ru_maxrss, which starts from the memory of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
COUNTING: dict[str, Any] = {
    "kind": "init_death",
    "data": {"d_in": 256, "n_features": 512, "gamma": 20},
    "sae": {"d_sae": 2048, "k": 16},
    "preprocessings": [{"kind": "partial_pca", "alpha": alpha} for alpha in (0, 0.2, 0.4, 0.6)],
    "tokens": 2000,
    "seeds": 5,
}
TRAINING: dict[str, Any] = {
    "kind": "training",
    "data": {"d_in": 128, "gamma": [1, 2, 3, 4]},
    "sae": {"d_sae": 1024, "k": 8},
    "variants": {"baseline": {}, "auxk": {"dead_latents": "auxk"}},
    "learning_rate": [1e-3, 2e-3, 3e-3],
    "batch_size": 64,
    "heldout_tokens": 1024,
    "steps": 2,
    "record_every": 2,
    "seeds": 1,
    "cells_per_job": 24,
}
REMEDIES: dict[str, Any] = {
    "kind": "remedies",
    "data": {"edition": "small", "gamma": [1, 5]},
    "sae": {"d_sae": 256, "k": 5},
    "variants": {
        "none": {},
        "center_median": {"preprocessing": "center_median"},
        "ghosts": {"dead_latents": "ghost_grads"},
    },
    "batch_size": 64,
    "heldout_tokens": 4096,
    "steps": 2,
    "seeds": 1,
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux's /proc")
@pytest.mark.parametrize("experiment", [COUNTING, TRAINING, REMEDIES], ids=lambda experiment: experiment["kind"])
def test_estimates_lie_between_the_peak_and_three_times_the_peak(experiment: dict[str, Any]) -> None:
    config = check_config({"experiments": {"e": {"shows": "x"} | experiment}}, "lab")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", JOB, json.dumps(experiment)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peak_mb = int(found.stdout.split()[-1]) / 1024
    assert 1 <= lab_mb(config.experiments["e"]) / peak_mb <= 3, peak_mb


def test_trainings_ask_for_room_for_all_saes_of_a_job() -> None:
    def asked(**changes: Any) -> float:
        return lab_mb(check_config({"experiments": {"e": {"shows": "x"} | TRAINING | changes}}, "lab").experiments["e"])

    weights = 2 * 4 * 128 * 1024 / 2**20
    assert asked() - asked(cells_per_job=12) >= 12 * 3 * weights
    assert asked(cells_per_job=100) == asked(cells_per_job=24)
    assert asked(steps=10**6) == asked(steps=2)
