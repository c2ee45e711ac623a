"""The stage in its suite: pages of every trained SAE of a miniature one, linked from its report, and what is stale."""

import json
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from saelib.config import Config
from saelib.config.load import check_config
from saelib.pipeline.plan import make_plan
from saelib.pipeline.redo import chosen_targets
from tests.features.test_pages import script
from tools.miniature import Tree, make_tree

VARIANTS = {"baseline": {}, "again": {"seed": 5, "d_sae": 96}}
JOB = "features/severe/layer_2"


def run_jobs(config: Config) -> None:
    """Runs every stale job of a suite in this process."""
    for job in make_plan(config).jobs.values():
        stage = "evaluation" if job.stage == "evaluate" else job.stage
        import_module(f"saelib.{stage}.stage").run(config, job)


def stale(config: dict[str, Any]) -> set[str]:
    return set(make_plan(check_config(config, "test")).jobs)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Results of a suite that is evaluated, run to its end. Not to be changed."""
    tree = make_tree(tmp_path_factory.mktemp("features") / "tree")
    before = Path.cwd()
    os.chdir(tree.root)
    config = tree.config
    config["models"] = {"severe": config["models"]["severe"] | {"layers": "2"}}
    config["train"] |= {"variants": VARIANTS, "learning_rates": [0.001]}
    config["evaluation"] = {"tokens": 512}
    tree.config = config
    assert JOB in stale(config)
    run_jobs(check_config(config, "test"))
    yield tree.results
    os.chdir(before)


@pytest.fixture
def config(results: Path) -> dict[str, Any]:
    """The config of the suite, to edit."""
    return Tree(results.parent).config


def test_every_trained_sae_has_pages(results: Path, config: dict[str, Any]):
    assert stale(config) == set()
    folder = results / "features" / "severe" / "layer_2"
    assert {path.name for path in folder.iterdir()} == set(VARIANTS)
    for variant, latents in {"baseline": 64, "again": 96}.items():
        found = json.loads((folder / variant / "features.json").read_text())
        assert found["latents"] == latents == found["alive"] + found["dense"] + found["dead"]
        _, columns = script(folder / variant / "data" / "list.js")
        assert len(columns["state"]) == latents
        assert len(columns["places"]) == 2 * latents


def test_pages_and_report_link_to_one_another(results: Path):
    folder = results / "features" / "severe" / "layer_2" / "baseline"
    page = (folder / "index.html").read_text()
    assert 'href="../../../../report.html"' in page
    assert (folder / "../../../../report.html").resolve() == results.resolve() / "report.html"
    assert '"again-seed5": "../again/index.html"' in page
    report = (results / "report.html").read_text()
    for variant in VARIANTS:
        assert f'href="features/severe/layer_2/{variant}/index.html"' in report


def test_pages_of_one_variant_can_be_written_again(results: Path, config: dict[str, Any]):
    chosen = chosen_targets(check_config(config, "test"), "features", [], [], ["again"], [], [])
    paths = [target.path for target in chosen]
    assert paths == ["results/features/severe/layer_2/again/features.json", "results/report.json"]


def test_pages_are_stale_with_the_evaluation_and_the_seed(config: dict[str, Any]):
    assert stale(config | {"evaluation": {"tokens": 600}}) == {"evaluate/severe/layers_2-2", JOB, "report/all"}
    assert JOB in stale(config | {"seed": 1})


def test_without_features_or_evaluation_there_are_no_pages(config: dict[str, Any]):
    assert stale(config | {"features": False}) == {"report/all"}
    assert stale({name: value for name, value in config.items() if name != "evaluation"}) == {"report/all"}
