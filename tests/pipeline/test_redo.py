"""A fresh result is recomputed by `saelib redo`, and by nothing else."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tools.miniature import Tree

PER_LAYER = ("extract", "stats", "init_death")


def saelib(tree: Tree, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-c", "from saelib.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=tree.root, env=tree.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("report",), {"report/all"}),
        (("init_death", "--model", "calm"), {"init_death/calm/layers_1-2", "report/all"}),
        (("train", "--variant", "baseline"), {"train/severe/layer_2/baseline", "report/all"}),
        (
            ("stats", "--model", "severe", "--layers", "1"),
            {"stats/severe/layers_1-1", "init_death/severe/layers_1-1", "theory/all", "report/all"},
        ),
        (
            ("extract", "--layers", "2"),
            {f"{stage}/{model}/layers_2-2" for stage in PER_LAYER for model in ("calm", "severe")}
            | {"train/severe/layer_2/baseline", "train/severe/layer_2/auto", "theory/all", "report/all"},
        ),
    ],
)  # fmt: skip
def test_it_makes_stale_what_was_named_and_what_depends_on_it(
    edited: Tree, arguments: tuple[str, ...], expected: set[str]
) -> None:
    before = edited.hashes()
    assert "Would remove" in saelib(edited, "redo", *arguments, "--dry-run")
    assert (edited.stale(), edited.hashes()) == (set(), before)
    assert "Removed" in saelib(edited, "redo", *arguments)
    assert edited.stale() == expected
    assert "the next run computes them" in saelib(edited, "redo", *arguments)


def test_the_next_run_ends_in_the_same_results(edited: Tree, finished: Tree) -> None:
    saelib(edited, "redo", "stats", "--model", "calm", "--layers", "1-2")
    edited.run()
    assert edited.stale() == set()
    assert edited.hashes() == finished.hashes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stat",), "no stage 'stat'; there are: extract, stats, init_death, theory, train, evaluate, features"),
        (("stats", "--model", "clam"), "stage 'stats': no model clam; there are: calm, severe"),
        (("stats", "--model", "calm", "--layers", "2,5-6"), "stage 'stats' of calm: no layer 5, 6; there are: 1-2"),
        (("train", "--model", "calm"), "stage 'train': no model calm; there are: severe"),
        (("train", "--variant", "x"), "stage 'train' of severe: no variant x; there are: baseline, auto"),
        (("stats", "--variant", "baseline"), "stage 'stats' has no variants"),
        (("report", "--model", "calm"), "stage 'report' has one result for the whole suite"),
        (("stats", "--layers", "last"), "--layers: 'last' names no layers; write them as 3,5-7"),
    ],
)
def test_what_the_suite_does_not_have_is_refused(finished: Tree, arguments: tuple[str, ...], said: str) -> None:
    assert f"error: {said}" in saelib(finished, "redo", *arguments, code=1)
    assert finished.stale() == set()


def test_nothing_is_removed_under_a_run_at_work(edited: Tree) -> None:
    import fcntl

    with (edited.results / ".lock").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        assert "another run is at work" in saelib(edited, "redo", "report", code=1)
    assert edited.stale() == set()


@pytest.mark.parametrize(
    "words", [("--forceall",), ("-F", "-n"), ("--forcerun", "stats"), ("-R", "stats", "-n"), ("-f",)]
)
def test_snakemakes_words_for_force_are_refused_with_the_way(finished: Tree, words: tuple[str, ...]) -> None:
    done = finished.snakemake(*words)
    assert done.returncode == 1
    assert "saelib redo" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_touching_is_refused_too(edited: Tree) -> None:
    (edited.results / "report.json").unlink()
    done = edited.snakemake("--touch")
    assert done.returncode == 1
    assert "error: --touch makes no result fresh" in done.stderr.splitlines()[-1]


def planned(tree: Tree) -> dict[str, Any]:
    return json.loads(saelib(tree, "plan", "--json"))


def reasons(tree: Tree) -> dict[str, list[str]]:
    return {" ".join(str(one[name]) for name in ("stage", "model", "layer", "variant") if one[name]): one["reasons"]
            for one in planned(tree)["stale"]}  # fmt: skip


def test_the_plan_says_what_changed_in_every_stage(edited: Tree) -> None:
    assert "All 16 results are up to date" in saelib(edited, "plan")
    config = edited.config
    config["train"]["k"] = 5
    config["models"]["calm"]["layers"] = "1-3"
    config["train"]["variants"]["baseline"] = {"dead_latents": "auxk"}
    edited.config = config
    moments = edited.root / "saelib" / "stats" / "moments.py"
    (edited.results / "init_death/severe/layer_1.json").unlink()
    found = reasons(edited)
    assert found["train severe 2 auto"] == ["train.k: 4 -> 5"]
    assert found["train severe 2 baseline"][0] == "train.k: 4 -> 5"
    assert any(
        "auxk" in text and text.startswith("train.variants.baseline.dead_latents")
        for text in found["train severe 2 baseline"]
    )
    assert found["extract calm 3"] == ["missing"]
    assert found["init_death severe 1"] == ["missing"]
    assert found["theory"] == ["added: stats of calm layer 3"]
    assert found["report"] == [
        "upstream: theory, train",
        "added: init_death of calm layer 3, stats of calm layer 3",
    ]
    assert "train.k: 4 -> 5" in saelib(edited, "plan")
    moments.write_text(moments.read_text() + "\nEXTRA = 1\n")
    found = reasons(edited)
    assert found["stats severe 1"] == ["code of saelib.stats.moments"]
    assert found["train severe 2 auto"] == [
        "train.k: 4 -> 5",
        "code of saelib.stats.moments",
        "upstream: stats",
    ]


def test_changed_files_and_damage_are_reasons_too(edited: Tree) -> None:
    path = edited.root / "arrays" / "calm_1.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (edited.results / "report.json").write_text("{}")
    store = edited.results / "extract/severe/layer_2.zarr/zarr.json"
    store.write_text(store.read_text().replace("0", "1", 1))
    found = reasons(edited)
    assert found["extract calm 1"] == ["contents of arrays/calm_1.npy changed"]
    assert found["stats calm 1"] == ["upstream: extract"]
    assert found["extract severe 2"] == ["damaged or unfinished"]
    assert found["report"] == ["damaged or unfinished"]


@pytest.mark.parametrize("lost", [None, "{", "[]", "moved"])
def test_without_the_record_the_results_are_as_fresh_as_with_it(edited: Tree, lost: str | None) -> None:
    record = edited.results / "keys.json"
    record.unlink() if lost is None else record.write_text(lost)
    assert edited.stale() == set()
    config = edited.config
    config["models"]["calm"]["notes"] = "other words"
    edited.config = config
    assert reasons(edited) == {
        "report": ["made by another version of saelib, or elsewhere: there is no record of its settings and code"]
    }


def test_another_suite_in_the_same_folder_leaves_the_record_of_this_one(edited: Tree) -> None:
    whole = edited.config
    other = edited.config
    del other["models"]["severe"]
    edited.config = other
    edited.run()
    whole["init_death"]["k"] = 9
    edited.config = whole
    assert reasons(edited)["init_death severe 1"] == ["init_death.k: 8 -> 9"]


def test_a_run_says_why_each_job_runs_and_how_long_it_will_take(edited: Tree) -> None:
    config = edited.config
    config["init_death"]["k"] = 9
    edited.config = config
    assert planned(edited)["seconds_left"] > 0
    said = (done := edited.snakemake()).stdout + done.stderr
    assert done.returncode == 0
    assert "count latents born dead: calm/layers_1-2 (init_death.k: 8 -> 9)" in said
    assert "tables, figures and page: all (upstream: init_death, theory)" in said
    lines = [line for line in said.splitlines() if line.startswith("saelib: ")]
    assert [line.partition(",")[0] for line in lines] == [f"saelib: {done} of 4 jobs done" for done in range(4)]
    assert all(line.endswith(" left") for line in lines)
    assert reasons(edited) == {}


def test_a_report_without_all_results_says_so(edited: Tree) -> None:
    import numpy as np

    path = edited.root / "arrays" / "calm_2.npy"
    good = path.read_bytes()
    acts = np.load(path)
    acts[17, 5] = np.nan
    np.save(path, acts)
    assert edited.snakemake("--keep-going").returncode == 1
    path.write_bytes(good)
    assert reasons(edited)["report"] == ["the last run ended without all results"]
    # What there was is fresh again, as it was never replaced.
    assert set(reasons(edited)) == {"report", "theory"}
    assert os.path.exists(edited.results / "keys.json")
