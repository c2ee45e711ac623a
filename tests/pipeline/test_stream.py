"""A suite that trains straight from a model's forward passes, through Snakemake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def trained(tree: Any) -> dict[str, str]:
    return {path: digest for path, digest in tree.hashes().items() if path.startswith("train/")}


def streaming(tree: Any, **stream: int) -> None:
    config = tree.config
    config["models"]["severe"] |= {"train_layers": [1, 2], "stream": {"buffer_rows": 512, **stream}}
    tree.config = config


def test_one_job_trains_all_of_a_model_and_a_killed_one_goes_on(edited: Any, tmp_path: Path) -> None:
    streaming(edited)
    assert edited.stale() == {"train/severe/pass_1", "report/all"}
    other = edited.copy(tmp_path / "undisturbed")
    other.run()
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    run = subprocess.Popen(command, cwd=edited.root, env=edited.env, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while run.poll() is None and not list(edited.results.glob("train/severe/layer_1/*/checkpoints/*/step_*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    edited.run()
    assert edited.stale() == set()
    assert trained(edited) == trained(other)
    assert len([path for path in trained(edited) if path.endswith("sweep.json")]) == 4
    report = json.loads((edited.results / "report.json").read_text())
    assert (report["tables"]["saes"], report["gaps"]) == (4, [])
    # Only what is stale is trained again, by its own pass.
    config = edited.config
    config["train"]["variants"]["new"] = {"preprocessing": "pca"}
    edited.config = config
    streaming(edited, sweeps_per_pass=1)
    assert {job for job in edited.stale() if job.startswith("train/")} == {"train/severe/pass_1", "train/severe/pass_2"}
