"""The stage in its pipeline: a miniature suite through Snakemake, what an edit makes stale, and the report of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from saelib.evaluation.layer_result import load_layer
from saelib.evaluation.seen import read_seen
from saelib.sae.file import load_sae
from tests.pipeline.test_redo import saelib
from tools.miniature import Tree, make_tree

ROWS = 3200
VARIANTS = {"baseline": {}, "again": {"seed": 5}, "wide": {"d_sae": 96, "preprocessing": "center_median"}}
JOB = "evaluate/severe/layers_2-2"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A suite that is evaluated with labels, run to its end. Not to be changed: take `edited`."""
    tree = make_tree(tmp_path_factory.mktemp("evaluate") / "tree")
    acts = np.load(tree.root / "arrays" / "severe_2.npy")
    large = acts[:, 23] > 2
    pl.DataFrame({"large": large, "even": np.arange(ROWS) % 2}).write_csv(tree.root / "labels.csv")
    config = tree.config
    config["train"]["variants"] = VARIANTS
    config["evaluation"] = {
        "tokens": 1024,
        "labels": {"severe": {"kind": "table", "file": {"path": "labels.csv"}}},
        "probing": {"ks": [1, 2]},
    }
    tree.config = config
    assert JOB in tree.stale()
    tree.run()
    return tree


@pytest.fixture
def edited(tree: Tree, tmp_path: Path) -> Tree:
    return tree.copy(tmp_path / "edited")


def edit(tree: Tree, section: str, **changes: Any) -> set[str]:
    config = tree.config
    config[section] |= changes
    tree.config = config
    return tree.stale()


def folder(tree: Tree) -> Path:
    return tree.results / "evaluation" / "severe" / "layer_2"


def test_every_sae_is_evaluated(tree: Tree) -> None:
    assert tree.stale() == set()
    layer, saes = load_layer(folder(tree) / "evaluation.json")
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


def test_codes_are_those_of_the_sae(tree: Tree) -> None:
    seen = read_seen(folder(tree))
    rows = seen.tokens["start"].to_numpy()
    assert rows.tolist() == list(range(ROWS - 1024, ROWS))
    assert (seen.tokens["end"].to_numpy() == rows + 1).all()
    acts = np.load(tree.root / "arrays" / "severe_2.npy")[rows]
    saved = load_sae(tree.results / "train" / "severe" / "layer_2" / "wide" / "weights.safetensors")
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


def test_seeds_differ_and_the_reference_training_does_not(tree: Tree) -> None:
    saved = {
        name: load_sae(tree.results / "train" / "severe" / "layer_2" / name / "weights.safetensors")
        for name in VARIANTS
    }
    assert saved["wide"].sae.d_sae == 96
    assert abs(saved["baseline"].sae.W_enc - saved["again"].sae.W_enc).max() > 0.01


def test_tables_and_page(tree: Tree) -> None:
    table = pl.read_parquet(tree.results / "tables" / "evaluation.parquet")
    assert table["sae"].to_list()[:3] == ["baseline-seed0", "baseline-seed5", "wide-seed0"]
    assert table.filter("trained")["concept_f1"].is_not_null().all()
    assert table["typical_tokens"].max() <= 1024
    neurons = table.filter(sae="neurons").row(0, named=True)
    assert neurons["concept_f1"] > 0.4  # a label is one neuron above a value
    assert pl.read_csv(tree.results / "tables" / "evaluation.csv").columns == table.columns
    differences = pl.read_parquet(tree.results / "tables" / "evaluation_differences.parquet")
    assert (differences["high"] - differences["low"]).to_list() == pytest.approx(
        (2 * differences["smallest_reliable"]).to_list()
    )
    report = json.loads((tree.results / "report.json").read_text())
    assert report["gaps"] == []
    assert "evaluation" in report["figures"]
    page = (tree.results / "report.html").read_text()
    assert 'id="evaluation"' in page
    assert "baseline-seed5" in page


def test_an_edit_makes_what_it_touches_stale(edited: Tree) -> None:
    assert edit(edited, "evaluation", tokens=512) == {JOB, "report/all"}
    config = edited.config
    config["train"]["variants"]["again"]["seed"] = 6
    config["evaluation"]["tokens"] = 1024
    edited.config = config
    assert edited.stale() == {"train/severe/layer_2/again", JOB, "report/all"}
    config["train"]["variants"]["again"]["seed"] = 5
    edited.config = config
    assert edited.stale() == set()
    labels = edited.root / "labels.csv"
    labels.write_text(labels.read_text().replace("false,1", "true,1", 1))
    assert edited.stale() == {JOB, "report/all"}


def test_without_the_section_nothing_is_evaluated(edited: Tree) -> None:
    config = edited.config
    del config["evaluation"]
    edited.config = config
    assert edited.stale() == {"report/all"}


def test_redo_removes_the_folder(edited: Tree) -> None:
    assert "1 of evaluate" in saelib(edited, "redo", "evaluate", "--yes")
    assert not folder(edited).exists()
    assert edited.stale() == {JOB, "report/all"}
