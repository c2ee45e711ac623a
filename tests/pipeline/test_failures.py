"""Killed, starved or fed nonsense, a run ends in the undisturbed results or in one clear sentence."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

STAGES = ["extract", "stats", "init_death", "train", "report"]


def results(tree: Any) -> dict[str, str]:
    return tree.hashes()


def words(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


PYTHONS_OWN = re.compile(r"\b\w+\(\w+=|\b(?:Posix)?Path\(|<\w+(?:\.\w+)+ |\bnp\.\w+\(|\bdtype\(")
"""What Python writes for an object that nobody gave words to: `Place(model=...)`, `PosixPath('...')`."""


def own_words(done: subprocess.CompletedProcess[str]) -> str:
    """What a run said, without Snakemake's heading, where it lists its settings."""
    return words(done).replace("Config file(s): [PosixPath(", "")


def visible_text(page: Path) -> str:
    text = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", " ", text))


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_any_stage_the_next_run_gives_the_undisturbed_results(edited: Any, finished: Any, stage: str) -> None:
    target = edited.root / "results" / ("report.json" if stage == "report" else stage)
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    run = subprocess.Popen(command, cwd=edited.root, env=edited.env, start_new_session=True, stderr=subprocess.DEVNULL)
    runs = edited.root / "results" / "runs"
    before = set(runs.iterdir())
    deadline = time.monotonic() + 60
    while not any((new / "logs" / stage).exists() for new in set(runs.iterdir()) - before):
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.05)
    time.sleep(1.2)  # into the work
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    edited.run()
    assert results(edited) == results(finished)
    assert edited.stale() == set()


def test_a_fresh_run_gives_the_same_bits(finished: Any, tmp_path: Path) -> None:
    again = finished.copy(tmp_path / "again")
    shutil.rmtree(again.root / "results")
    again.run()
    assert results(again) == results(finished)


def test_a_second_run_in_the_same_folder_is_refused(edited: Any) -> None:
    import fcntl

    (edited.root / "results" / "report.json").unlink()
    with (edited.root / "results" / ".lock").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        done = edited.snakemake()
    assert done.returncode != 0
    assert "another run is at work in this folder" in words(done)
    edited.run()


def test_mistakes_in_the_config_stop_before_any_work(edited: Any) -> None:
    config = edited.config
    config["trian"] = config.pop("train")
    config["init_death"]["k"] = 0
    edited.config = config
    done = edited.snakemake()
    assert done.returncode == 1
    assert "workflow_config.yaml: 2 mistakes" in words(done)
    assert "trian: unknown key; did you mean 'train'?" in words(done)
    assert "Traceback" not in words(done)


def test_a_config_file_on_the_command_line_replaces_the_default(edited: Any) -> None:
    (edited.root / "workflow_config.yaml").rename(edited.root / "other.yaml")
    (edited.root / "workflow_config.yaml").write_text("models: {broken: 1}\n")
    assert "Nothing to be done" in words(edited.snakemake("-n", "--configfile", "other.yaml"))


def test_what_failed_is_missing_from_the_report_with_its_reason_and_the_rest_is_there(
    edited: Any, finished: Any
) -> None:
    path = edited.root / "arrays" / "calm_2.npy"
    good = path.read_bytes()
    acts = np.load(path)
    acts[[17, 29], 5] = np.nan, np.inf
    np.save(path, acts)
    config = edited.config
    config["init_death"]["seeds"] = 3  # every layer's init death is out of date
    edited.config = config
    done = edited.snakemake("--keep-going")
    assert done.returncode == 1
    assert "extract: calm layer 2: the job" not in words(done)  # it left its reason
    assert "extract: calm layer 2: " in words(done)
    assert "calm layer 2: 2 of" in words(done)
    assert "(1 NaN), in the examples row 17, row 29" in words(done)
    assert "Traceback" not in words(done)
    # Nothing of the earlier result was lost.
    assert (edited.root / "results/extract/calm/layer_2.zarr/zarr.json").exists()
    for text in (own_words(done), visible_text(edited.results / "report.html")):
        assert not PYTHONS_OWN.findall(text)
    report = json.loads((edited.root / "results/report.json").read_text())
    reasons = {(gap["stage"], gap["place"]["model"], gap["place"]["layer"]): gap["reason"] for gap in report["gaps"]}
    # Layer 1 shares the job that counts born dead features with layer 2.
    assert set(reasons) == {("extract", "calm", 1), ("extract", "calm", 2)}
    assert "activations in this batch are not finite" in reasons["extract", "calm", 2]
    layers = pl.read_csv(edited.root / "results/tables/layers.csv")
    measured = layers.filter(pl.col("dead_total").is_not_null())
    # The old statistics and deaths of calm still lie on disk, but belong to the old array and config.
    assert measured["model"].to_list() == ["severe", "severe"]
    assert layers["model"].to_list() == ["calm", "severe", "severe"]  # of calm's layer 1, the statistics hold
    assert measured["predicted_dead_total"].null_count() == 0
    assert "not finite" in (edited.root / "results/report.html").read_text()
    path.write_bytes(good)
    config["init_death"]["seeds"] = 2
    edited.config = config
    edited.run()
    assert results(edited) == results(finished)


def test_too_little_data_says_how_much_there_is(edited: Any) -> None:
    config = edited.config
    config["extraction"]["tokens"] = 4096
    edited.config = config
    done = edited.snakemake("--keep-going")
    assert done.returncode == 1
    assert "has 3,200 rows; extraction.tokens 4,096 and extraction.heldout_tokens 1,024 need 5,120" in words(done)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_store_is_refused_by_name(edited: Any, damage: str) -> None:
    chunk = edited.root / "results/extract/severe/layer_1.zarr/train/acts/c/2/0"
    data = bytearray(chunk.read_bytes())
    data[1000] ^= 4
    chunk.write_bytes(data if damage == "flipped" else data[:1000])
    if damage == "missing":
        chunk.unlink()
    (edited.root / "results/stats/severe/layer_1.json").unlink()
    done = edited.snakemake()
    assert done.returncode == 1
    assert "severe/layer_1.zarr" in words(done)
    assert "chunk" in words(done)
    assert "Traceback" not in words(done)
    shutil.rmtree(edited.root / "results/extract/severe/layer_1.zarr")
    if damage == "missing":  # without the store, the three cases are the same
        edited.run()


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small file system: needs root")
def test_a_full_disk_says_so_and_loses_nothing(edited: Any, finished: Any) -> None:
    folder = edited.root / "results" / "extract" / "calm"
    shutil.rmtree(folder)
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("root without the right to mount (a container): no small file system to fill")
    try:
        done = edited.snakemake()
        assert done.returncode == 1
        assert "No space left on device" in words(done)
        assert "Traceback" not in words(done)
    finally:
        subprocess.run(["umount", folder], check=True)
    edited.run()
    assert results(edited) == results(finished)
