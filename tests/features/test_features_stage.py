"""The stage in its pipeline: pages of every trained SAE of a miniature suite, linked from its report."""

import json
from pathlib import Path

import pytest

from tests.features.test_pages import script
from tests.pipeline.test_redo import saelib
from tools.miniature import Tree, make_tree

VARIANTS = {"baseline": {}, "again": {"seed": 5, "d_sae": 96}}
JOB = "features/severe/layer_2"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A suite that is evaluated, run to its end. Not to be changed: take `edited`."""
    tree = make_tree(tmp_path_factory.mktemp("features") / "tree")
    config = tree.config
    config["models"] = {"severe": config["models"]["severe"] | {"layers": "2"}}
    config["train"] |= {"variants": VARIANTS, "learning_rates": [0.001]}
    config["evaluation"] = {"tokens": 512}
    tree.config = config
    assert JOB in tree.stale()
    tree.run()
    return tree


@pytest.fixture
def edited(tree: Tree, tmp_path: Path) -> Tree:
    return tree.copy(tmp_path / "edited")


def test_every_trained_sae_has_pages(tree: Tree):
    assert tree.stale() == set()
    folder = tree.results / "features" / "severe" / "layer_2"
    assert {path.name for path in folder.iterdir()} == set(VARIANTS)
    for variant, latents in {"baseline": 64, "again": 96}.items():
        found = json.loads((folder / variant / "features.json").read_text())
        assert found["latents"] == latents == found["alive"] + found["dense"] + found["dead"]
        _, columns = script(folder / variant / "data" / "list.js")
        assert len(columns["state"]) == latents
        assert len(columns["places"]) == 2 * latents


def test_pages_and_report_link_to_one_another(tree: Tree):
    folder = tree.results / "features" / "severe" / "layer_2" / "baseline"
    page = (folder / "index.html").read_text()
    assert 'href="../../../../report.html"' in page
    assert (folder / "../../../../report.html").resolve() == tree.results.resolve() / "report.html"
    assert '"again-seed5": "../again/index.html"' in page
    report = (tree.results / "report.html").read_text()
    for variant in VARIANTS:
        assert f'href="features/severe/layer_2/{variant}/index.html"' in report


def test_only_lost_pages_are_written_again(edited: Tree):
    lost = edited.results / "features" / "severe" / "layer_2" / "again"
    assert "(1 of features, 1 of report)" in saelib(edited, "redo", "features", "--variant", "again")
    assert not lost.exists()
    assert edited.stale() == {JOB, "report/all"}


def test_without_features_or_evaluation_there_are_no_pages(edited: Tree):
    config = edited.config
    edited.config = config | {"features": False}
    assert edited.stale() == {"report/all"}
    edited.config = {name: value for name, value in config.items() if name != "evaluation"}
    assert edited.stale() == {"report/all"}


def test_an_edited_page_is_written_again(edited: Tree):
    style = edited.root / "saelib" / "features" / "assets" / "features.css"
    style.write_text(style.read_text() + "\n")
    assert edited.stale() == {JOB, "report/all"}
