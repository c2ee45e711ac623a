"""What an edit makes stale: exactly the jobs that it should."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ALWAYS = {"report/all"}
TRAIN = {"train/severe/layer_2/baseline", "train/severe/layer_2/auto"}
AUTO = {"train/severe/layer_2/auto"}
STATS = {"stats/calm/layers_1-2", "stats/severe/layers_1-2"}
DEATH = {"init_death/calm/layers_1-2", "init_death/severe/layers_1-2"}
EXTRACT = {"extract/calm/layers_1-2", "extract/severe/layers_1-2"}
THEORY = {"theory/all"}


def test_a_finished_suite_has_nothing_left_to_do(finished: Any) -> None:
    assert finished.stale() == set()
    done = finished.snakemake("-n")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


def test_nor_has_a_fresh_clone_with_the_same_results_and_other_dates(finished: Any, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path / "clone", state=False)
    for file in sorted(clone.root.rglob("*"), reverse=True):
        os.utime(file)
    assert "Nothing to be done" in (done := clone.snakemake("-n")).stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("stats/calm/layer_1.json", "stats/calm/layers_1-1"),
        ("init_death/severe/layer_2.json", "init_death/severe/layers_2-2"),
        ("theory/predictions.json", "theory/all"),
        ("train/severe/layer_2/baseline/sweep.json", "train/severe/layer_2/baseline"),
        ("report.json", "report/all"),
    ],
)
def test_a_result_with_a_changed_digit_is_made_again(edited: Any, name: str, job: str) -> None:
    file = edited.root / "results" / name
    text = file.read_text()
    place = text.index(": 2") + 2  # a number that is none of the key's
    file.write_text(text[:place] + "6" + text[place + 1 :])
    assert edited.stale() == {job}


def add_a_line(text: str) -> str:
    return text + "\nEXTRA = 1\n"


def add_a_comment_and_blank_lines(text: str) -> str:
    assert "\n\n\n" in text
    return "# why\n" + text.replace("\n\n\n", "\n\n\n\n")


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("saelib/sae/autograd/losses.py", add_a_line, TRAIN | ALWAYS),
        ("saelib/sae/autograd/losses.py", add_a_comment_and_blank_lines, set()),
        ("saelib/sae/kernels/large.py", add_a_line, TRAIN | ALWAYS),
        ("saelib/train/loggers.py", add_a_line, set()),
        # `auto` predicts death by probes and the cap law, and counts nothing.
        ("saelib/init_death/kernels.py", add_a_line, DEATH | ALWAYS),
        ("saelib/init_death/probes.py", add_a_line, DEATH | AUTO | ALWAYS),
        ("saelib/theory/cap_law.py", add_a_line, DEATH | AUTO | ALWAYS),
        ("saelib/theory/closed_forms.py", add_a_line, THEORY | ALWAYS),
        ("saelib/stats/moments.py", add_a_line, STATS | DEATH | THEORY | TRAIN | ALWAYS),
        ("saelib/report/page.py", add_a_line, ALWAYS),
        (
            "saelib/store/write.py",
            add_a_line,
            EXTRACT | STATS | DEATH | THEORY | TRAIN | ALWAYS,
        ),
        ("saelib/sources/spliceai.py", add_a_line, set()),
        ("saelib/cli/main.py", add_a_line, set()),
    ],
)
def test_code(edited: Any, file: str, change: Callable[[str], str], expected: set[str]) -> None:
    path = edited.root / file
    path.write_text(change(path.read_text()))
    assert edited.stale() == expected


def set_value(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for part in parents:
            config = config[part]
        config[last] = value

    change.__name__ = path  # what pytest calls the case
    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_value("train.steps", 31), TRAIN | ALWAYS),
        (set_value("train.learning_rates", [0.01, 0.001]), TRAIN | ALWAYS),
        (set_value("train.variants.baseline", {"learning_rates": [0.001, 0.01]}), set()),
        (set_value("train.record_every", 15), TRAIN | ALWAYS),
        (set_value("train.checkpoint_every", 7), set()),
        (set_value("train.threads", 2), set()),
        (set_value("train.log_to", "tensorboard"), set()),
        (set_value("train.variants.baseline", {"dead_latents": "auxk"}), {"train/severe/layer_2/baseline"} | ALWAYS),
        (set_value("init_death.k", 9), DEATH | THEORY | ALWAYS),
        (set_value("init_death.layers_per_job", 1), set()),
        (set_value("stats", {"layers_per_job": 1, "device": "cpu"}), set()),
        (set_value("stats", {"device": "cuda"}), STATS | DEATH | THEORY | TRAIN | ALWAYS),
        (set_value("models.calm.notes", "other words"), ALWAYS),
        (
            set_value("models.calm.layers", "1-3"),
            {"extract/calm/layers_3-3", "stats/calm/layers_3-3", "init_death/calm/layers_3-3"} | THEORY | ALWAYS,
        ),
        (set_value("models.calm.layers", [2]), THEORY | ALWAYS),
        (
            set_value("models.severe.representative_layer", 1),
            {"train/severe/layer_1/baseline", "train/severe/layer_1/auto"} | ALWAYS,
        ),
        (set_value("extraction.threads", 2), set()),
        (set_value("seed", 1), EXTRACT | STATS | DEATH | THEORY | TRAIN | ALWAYS),
    ],
)
def test_config(edited: Any, change: Callable[[dict[str, Any]], None], expected: set[str]) -> None:
    config = edited.config
    change(config)
    edited.config = config
    assert edited.stale() == expected


def test_a_new_model_runs_no_other_model_again(edited: Any) -> None:
    config = edited.config
    config["models"]["new"] = config["models"]["calm"] | {"layers": [1]}
    edited.config = config
    new = {f"{stage}/new/layers_1-1" for stage in ("extract", "stats", "init_death")}
    assert edited.stale() == new | THEORY | ALWAYS


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("results/extract/severe/layer_2.zarr", {"extract/severe/layers_2-2"}),
        ("results/extract/severe/layer_2.zarr/zarr.json", {"extract/severe/layers_2-2"}),
        ("results/stats/calm/layer_1.json", {"stats/calm/layers_1-1"}),
        ("results/report.json", ALWAYS),
    ],
)
def test_a_lost_result_is_made_again_and_nothing_else(edited: Any, lost: str, expected: set[str]) -> None:
    path = edited.root / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert edited.stale() == expected


def test_an_array_that_changed_is_extracted_again(edited: Any) -> None:
    path = edited.root / "arrays" / "calm_1.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    one = {"extract/calm/layers_1-1", "stats/calm/layers_1-1", "init_death/calm/layers_1-1"}
    assert edited.stale() == one | THEORY | ALWAYS


def test_the_dry_run_of_snakemake_lists_the_same_jobs(edited: Any) -> None:
    config = edited.config
    config["train"]["steps"] = 31
    edited.config = config
    before = sorted(edited.results.rglob("*"))
    done = edited.snakemake("-n")
    text = done.stdout + done.stderr
    assert "train: severe/layer_2/baseline" in text
    assert "train: severe/layer_2/auto" in text
    assert "tables, figures and page" in text
    assert "extract activations" not in text
    # And it leaves no trace: no run's folder, no record of keys that nothing has yet.
    assert sorted(edited.results.rglob("*")) == before
