"""The stage in its pipeline: tiny experiments through Snakemake, what an edit makes stale, and the report of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.lab.stage import run
from saelib.pipeline.plan import Job
from saelib.pipeline.targets import Target
from tests.pipeline.test_redo import saelib
from tools.miniature import Tree, make_tree

TRAINING = {"kind": "training", "sae": {"d_sae": 20, "k": 2}, "batch_size": 64, "heldout_tokens": 128, "seeds": 2}
EXPERIMENTS: dict[str, Any] = {
    "born": {
        "kind": "init_death",
        "shows": "Death <b>at</b> initialization.",
        "data": {"gamma": [1, 5, 20]},
        "sae": {"d_sae": 50, "k": 3},
        "tokens": [100, 1000],
        "calibration_tokens": 500,
        "seeds": 2,
        "cells_per_job": 2,
    },
    "slopes": {"kind": "gradient", "shows": "Gradients.", "data": {"gamma": 5}, "batch_size": 64, "seeds": 2},
    "trained": TRAINING
    | {
        "shows": "Training.",
        "data": {"gamma": [2, 20]},
        "variants": {"baseline": {}, "centered": {"preprocessing": "center_median"}},
        "steps": 20,
        "record_every": 10,
        "figures": {"death": {}, "bias": {"y": ["bias_capture"], "where": {"variant": ["baseline"]}}},
    },
}
CELLS = {"lab/born/cell_1", "lab/born/cell_3", "lab/slopes/cell_1", "lab/trained/cell_1"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A suite of experiments alone, run to its end. Not to be changed: take `edited`."""
    tree = make_tree(tmp_path_factory.mktemp("lab") / "tree")
    tree.config = {"experiments": EXPERIMENTS}
    assert tree.stale() == {*CELLS, "report/all"}
    tree.run()
    return tree


@pytest.fixture
def edited(lab: Tree, tmp_path: Path) -> Tree:
    """A copy of the finished suite, to edit."""
    return lab.copy(tmp_path / "edited")


def edit(tree: Tree, experiment: str, **changes: Any) -> set[str]:
    """Edits an experiment, and returns the jobs that become stale."""
    config = tree.config
    config["experiments"][experiment] |= changes
    tree.config = config
    return tree.stale()


def test_experiments_need_no_models(lab: Tree) -> None:
    assert lab.stale() == set()
    assert {path.name for path in lab.results.iterdir()} >= {"lab", "tables", "figures", "report.html", "report.json"}
    assert not (lab.results / "theory").exists()
    report = json.loads((lab.results / "report.json").read_text())
    assert report["gaps"] == []
    assert report["tables"] == {"lab_born": 6, "lab_slopes": 1, "lab_trained": 12}
    assert report["figures"] == ["lab_born", "lab_slopes", "lab_trained_death", "lab_trained_bias"]
    assert "up to date" in saelib(lab, "plan")


def test_tables_have_means_intervals_and_theory(lab: Tree) -> None:
    table = pl.read_parquet(lab.results / "tables" / "lab_born.parquet")
    assert table["gamma"].unique().sort().to_list() == [1, 5, 20]
    assert set(table["tokens"]) == {100, 1000}
    row = table.filter(gamma=20, tokens=1000).row(0, named=True)
    assert row["dead_total_low"] < row["dead_total"] < row["dead_total_high"]
    assert row["dead_relu"] + row["dead_topk_only"] == pytest.approx(row["dead_total"])
    assert row["predicted_dead_total"] == pytest.approx(row["dead_total"], abs=0.2)
    assert pl.read_csv(lab.results / "tables" / "lab_born.csv").columns == table.columns
    trained = pl.read_parquet(lab.results / "tables" / "lab_trained.parquet")
    assert set(trained["step"]) == {0, 10, 20}
    assert set(trained["variant"]) == {"baseline", "centered"}


def test_the_page_shows_every_experiment(lab: Tree) -> None:
    page = (lab.results / "report.html").read_text()
    for name in EXPERIMENTS:
        assert f'id="lab_{name}"' in page
    assert "Death &lt;b&gt;at&lt;/b&gt; initialization." in page
    for chart in ("lab_born-0", "lab_born-1", "lab_slopes-0", "lab_trained_death-0", "lab_trained_bias-0"):
        assert f'class="chart" id="{chart}"' in page
    assert 'href="tables/lab_born.csv"' in page
    assert "Will the latents be born dead?" not in page


def test_a_new_value_of_an_axis_is_all_that_is_computed(edited: Tree) -> None:
    assert edit(edited, "born", data={"gamma": [1, 2, 5, 20]}) == {"lab/born/cell_2", "report/all"}
    before = {path: path.stat().st_mtime_ns for path in (edited.results / "lab").rglob("*.json")}
    edited.run()
    after = {path: path.stat().st_mtime_ns for path in (edited.results / "lab").rglob("*.json")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert pl.read_parquet(edited.results / "tables" / "lab_born.parquet")["gamma"].n_unique() == 4


@pytest.mark.parametrize(
    ("experiment", "changes", "expected"),
    [
        ("born", {"shows": "Other words."}, set()),
        ("born", {"figures": {"main": {"y": ["dead_total"]}}}, set()),
        ("born", {"cells_per_job": 1}, None),
        ("born", {"seeds": 3}, {"lab/born/cell_1", "lab/born/cell_3"}),
        ("born", {"data": {"gamma": [5]}}, set()),
        ("trained", {"variants": {"baseline": {}, "centered": {"frozen": "b_dec"}}}, {"lab/trained/cell_2"}),
    ],
)
def test_what_an_edit_makes_stale(
    edited: Tree, experiment: str, changes: dict[str, Any], expected: set[str] | None
) -> None:
    assert edit(edited, experiment, **changes) == (set() if expected is None else {*expected, "report/all"})


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("saelib/lab/gradient.py", {"lab/slopes/cell_1"}),
        ("saelib/theory/closed_forms.py", {"lab/born/cell_1", "lab/born/cell_3"}),
        ("saelib/sae/population.py", {"lab/trained/cell_1"}),
        ("saelib/synthetic/data.py", CELLS),
        ("saelib/report/lab.py", set()),
    ],
)
def test_what_changed_code_makes_stale(edited: Tree, file: str, expected: set[str]) -> None:
    path = edited.root / file
    path.write_text(path.read_text() + "\nEXTRA = 1\n")
    assert edited.stale() == {*expected, "report/all"}


def test_a_damaged_or_lost_cell_is_recomputed_to_the_same_bits(edited: Tree, lab: Tree) -> None:
    damaged, lost = sorted((edited.results / "lab" / "born").glob("cell_*.json"))[:2]
    damaged.write_text(damaged.read_text().replace("0.", "1.", 1))
    lost.unlink()
    assert any(job.startswith("lab/born/") for job in edited.stale())
    edited.run()
    assert edited.hashes() == lab.hashes()


def test_kept_seeds_of_another_key_are_not_used(edited: Tree, lab: Tree) -> None:
    """A file of a seed that a killed job of another config left is recomputed, and removed with its cell."""
    (cell, *_) = sorted((edited.results / "lab" / "trained").glob("cell_*.json"))
    text = cell.read_text()
    cell.unlink()
    cell.with_name(f"{cell.stem}.seed_0.json").write_text(text.replace('"key": "', '"key": "0'))
    edited.run()
    assert edited.hashes() == lab.hashes()


def test_a_cell_that_the_config_does_not_have_is_refused() -> None:
    config = check_config({"experiments": {"slopes": EXPERIMENTS["slopes"]}}, "test")
    lost = Target("lab", "lab/slopes/cell.json", "key", experiment="slopes", cell="gamma=7")
    with pytest.raises(UserError, match=r"experiments\.slopes: has no cell gamma=7"):
        run(config, Job("lab", "slopes/cell_1", (lost,), ()))


def test_redo_knows_experiments(edited: Tree) -> None:
    assert "(1 of lab, 1 of report)" in saelib(edited, "redo", "lab", "--experiment", "slopes")
    assert edited.stale() == {"lab/slopes/cell_1", "report/all"}
    assert "stage 'lab': no experiment slope; there are: born, slopes, trained" in saelib(
        edited, "redo", "lab", "--experiment", "slope", code=1
    )
    assert "remove --model" in saelib(edited, "redo", "lab", "--model", "x", code=1)
    assert "only 'lab' has" in saelib(edited, "redo", "report", "--experiment", "born", code=1)


def test_a_failed_cell_is_named_and_the_others_are_reported(edited: Tree) -> None:
    shutil.rmtree(edited.results / "lab" / "born")
    # Forty of fifty directions hold more than a tenth of the variance in any case.
    edit(edited, "born", data={"low_rank": [0, 40], "low_rank_share": 0.1}, cells_per_job=1)
    done = edited.snakemake("--keep-going")
    assert done.returncode == 1
    report = json.loads((edited.results / "report.json").read_text())
    (gap,) = report["gaps"]
    assert gap["place"] == {"experiment": "born", "cell": "low_rank=40"}
    assert "low_rank" in gap["reason"]
    assert report["tables"]["lab_born"] == 2
    assert "born: low_rank=40" in (edited.results / "report.html").read_text()
