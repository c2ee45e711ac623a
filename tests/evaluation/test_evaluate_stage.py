"""The stage in its suite: results of a miniature one, what an edit makes stale, and the report of it."""

import json
import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from saelib.config import Config
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.evaluation.layer_result import load_layer
from saelib.evaluation.seen import read_seen
from saelib.pipeline.plan import make_plan
from saelib.pipeline.targets import wanted_targets
from saelib.sae.file import load_sae
from tools.miniature import Tree, make_tree

ROWS = 3200
VARIANTS = {"baseline": {}, "again": {"seed": 5}, "wide": {"d_sae": 96, "preprocessing": "center_median"}}
JOB = "evaluate/severe/layers_2-2"
AFTER = {"features/severe/layer_2", "report/all"}


def run_jobs(config: Config) -> None:
    """Runs every stale job of a suite in this process."""
    for job in make_plan(config).jobs.values():
        stage = "evaluation" if job.stage == "evaluate" else job.stage
        import_module(f"saelib.{stage}.stage").run(config, job)


def stale(config: dict[str, Any]) -> set[str]:
    return set(make_plan(check_config(config, "test")).jobs)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A suite that is evaluated with labels, run to its end. Not to be changed."""
    tree = make_tree(tmp_path_factory.mktemp("evaluate") / "tree")
    before = Path.cwd()
    os.chdir(tree.root)
    acts = np.load(Path("arrays/severe_2.npy"))
    pl.DataFrame({"large": acts[:, 23] > 2, "even": np.arange(ROWS) % 2}).write_csv("labels.csv")
    config = tree.config
    del config["models"]["calm"]
    config["train"]["variants"] = VARIANTS
    config["evaluation"] = {
        "tokens": 1024,
        "labels": {"severe": {"kind": "table", "file": {"path": "labels.csv"}}},
        "probing": {"ks": [1, 2]},
    }
    tree.config = config
    run_jobs(check_config(config, "test"))
    yield tree.root
    os.chdir(before)


@pytest.fixture
def config(root: Path) -> dict[str, Any]:
    """The config of the suite, to edit."""
    return Tree(root).config


def folder(root: Path) -> Path:
    return root / "results" / "evaluation" / "severe" / "layer_2"


def test_every_sae_is_evaluated(root: Path) -> None:
    layer, saes = load_layer(folder(root) / "evaluation.json")
    assert layer.saes == ("baseline-seed0", "baseline-seed5", "wide-seed0", "random", "neurons", "pca")
    assert [(one.kind, one.d_sae, one.tokens) for one in saes][:4] == [
        ("baseline", 64, 1024),
        ("baseline", 64, 1024),
        ("wide", 96, 1024),
        ("random directions", 64, 1024),
    ]
    (same,) = [pair for pair in layer.pairs if pair.same_kind]
    assert (same.first, same.second) == ("baseline-seed0", "baseline-seed5")
    assert len(layer.pairs) == 3
    measures = {(one.measure, one.kind) for one in layer.comparisons}
    assert {("example_fvu", "wide"), ("concept_f1", "raw neurons"), ("probe_auc", "wide")} <= measures
    wide = next(one for one in layer.comparisons if (one.measure, one.kind) == ("example_fvu", "wide"))
    assert (wide.seeds, wide.reference_seeds, wide.reference) == (1, 2, "baseline")


def test_codes_are_those_of_the_sae(root: Path) -> None:
    seen = read_seen(folder(root))
    rows = seen.tokens["start"].to_numpy()
    assert rows.tolist() == list(range(ROWS - 1024, ROWS))
    assert (seen.tokens["end"].to_numpy() == rows + 1).all()
    acts = np.load(root / "arrays" / "severe_2.npy")[rows]
    saved = load_sae(root / "results" / "train" / "severe" / "layer_2" / "wide" / "weights.safetensors")
    import torch

    with torch.no_grad():
        expected = saved.sae.encode(torch.from_numpy(saved.preprocess.apply(acts))).numpy()
    np.testing.assert_allclose(seen.codes("wide-seed0").toarray(), expected, atol=1e-5)
    latents = seen.latents("wide-seed0")
    np.testing.assert_allclose(latents["density"], (expected > 0).mean(axis=0))
    np.testing.assert_allclose(latents["max_activation"], expected.max(axis=0), rtol=1e-5)
    dead = (expected == 0).all(axis=0)
    assert [state == "dead" for state in latents["state"]] == dead.tolist()
    assert set(latents["twin_sae"]) <= {"baseline-seed0", "baseline-seed5"}


def test_seeds_differ_and_the_reference_training_does_not(root: Path) -> None:
    saved = {
        name: load_sae(root / "results" / "train" / "severe" / "layer_2" / name / "weights.safetensors")
        for name in VARIANTS
    }
    assert saved["wide"].sae.d_sae == 96
    assert abs(saved["baseline"].sae.W_enc - saved["again"].sae.W_enc).max() > 0.01


def test_tables_and_page(root: Path) -> None:
    table = pl.read_parquet(root / "results" / "tables" / "evaluation.parquet")
    assert table["sae"].to_list()[:3] == ["baseline-seed0", "baseline-seed5", "wide-seed0"]
    assert table.filter("trained")["concept_f1"].is_not_null().all()
    assert table["typical_tokens"].max() <= 1024
    neurons = table.filter(sae="neurons").row(0, named=True)
    assert neurons["concept_f1"] > 0.4  # a label is one neuron above a value
    assert pl.read_csv(root / "results" / "tables" / "evaluation.csv").columns == table.columns
    differences = pl.read_parquet(root / "results" / "tables" / "evaluation_differences.parquet")
    assert (differences["high"] - differences["low"]).to_list() == pytest.approx(
        (2 * differences["smallest_reliable"]).to_list()
    )
    report = json.loads((root / "results" / "report.json").read_text())
    assert report["gaps"] == []
    assert "evaluation" in report["figures"]
    page = (root / "results" / "report.html").read_text()
    assert 'id="evaluation"' in page
    assert "baseline-seed5" in page


def test_an_edit_makes_what_it_touches_stale(root: Path, config: dict[str, Any]) -> None:
    assert stale(config) == set()
    config["evaluation"]["tokens"] = 512
    assert stale(config) == {JOB, *AFTER}
    config["evaluation"]["tokens"] = 1024
    config["train"]["variants"]["again"]["seed"] = 6
    assert stale(config) == {"train/severe/layer_2/again", JOB, *AFTER}
    job = make_plan(check_config(config, "test")).jobs[JOB]
    assert job.after == ("train/severe/layer_2/again",)
    del config["evaluation"]
    config["train"]["variants"]["again"]["seed"] = 5
    assert stale(config) == {"report/all"}


def test_an_edited_label_makes_the_evaluation_stale(root: Path, config: dict[str, Any]) -> None:
    before = Path("labels.csv").read_text()
    Path("labels.csv").write_text(before.replace("false,1", "true,1", 1))
    try:
        assert stale(config) == {JOB, *AFTER}
    finally:
        Path("labels.csv").write_text(before)


def test_settings_of_variants_without_a_seed_keep_their_keys(config: dict[str, Any]) -> None:
    """The suite's own seed and size are what a variant has that names none."""
    config["train"]["variants"]["baseline"] = {"seed": 0, "d_sae": 64}
    assert "train/severe/layer_2/baseline" not in stale(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "x"}, "reference: 'x' is no variant"),
        ({"labels": {"x": {"kind": "folders"}}}, "labels of kind folders are for images, and x is neither a data set"),
        ({"labels": {"severe": {"kind": "folders"}}}, "labels of kind folders are for images, and severe is arrays"),
        ({"embeddings": {"severe": {"model": "x", "layer": 1}}}, "severe and x should be two models of the suite"),
    ],
)
def test_a_section_that_does_not_fit_is_refused(config: dict[str, Any], changes: Any, message: str) -> None:
    config["evaluation"] |= changes
    with pytest.raises(UserError, match=message):
        check_config(config, "test")


def test_removing_an_evaluation_removes_its_folder(root: Path, config: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(root / "results", tmp_path / "results")
    config["results"] = str(tmp_path / "results")
    assert stale(config) == set()
    (target,) = (one for one in wanted_targets(check_config(config, "test")) if one.stage == "evaluate")
    target.remove()
    assert not target.output.parent.exists()
    assert stale(config) == {JOB, *AFTER}
