"""The stage in its suite: results of a miniature one, what an edit makes stale, and the report of it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from saelib import compute_stats
from saelib.config import Config
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.evaluation.layer_result import load_layer
from saelib.evaluation.seen import read_seen
from saelib.evaluation.stage import run
from saelib.pipeline.plan import Job, make_plan
from saelib.pipeline.targets import wanted_targets
from saelib.preprocessing.transform import Preprocessing
from saelib.report.evaluation import (
    VERDICT_COLUMNS,
    difference_columns,
    differences_table,
    evaluation_columns,
    evaluation_table,
    verdicts,
)
from saelib.report.figures.evaluation import evaluation_figure
from saelib.report.page import _environment
from saelib.report.results import Place
from saelib.sae.file import SavedSAE, latent_by_latent, load_sae, save_sae
from saelib.sae.model import SAE
from saelib.stats import save_stats
from tools.miniature import Tree, make_tree

ROWS = 3200
VARIANTS = {"baseline": {}, "again": {"seed": 5}, "wide": {"d_sae": 96, "preprocessing": "center_median"}}
JOB = "evaluate/severe/layers_2-2"


SIZES = {"baseline": 64, "again": 64, "wide": 96}


def keys(config: dict[str, Any]) -> dict[str, str]:
    """The wanted key of every result."""
    return {str(target): target.key for target in wanted_targets(check_config(config, "test"))}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def save_random_sae(config: Config, variant: str, seed: int) -> None:
    """What training would have published, but untrained."""
    torch.manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(SIZES[variant], 24), dim=1)
    zeros = {"b_enc": torch.zeros(SIZES[variant]), "b_dec": torch.zeros(24)}
    sae = SAE("topk", latent_by_latent({"W_enc": W_dec.T.clone(), "W_dec": W_dec, **zeros}), 4)
    folder = config.train_path("severe", 2, variant)
    folder.mkdir(parents=True)
    save_sae(SavedSAE(sae, Preprocessing(np.full(24, seed / 10)), {}), folder / "weights.safetensors")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A suite whose untrained SAEs are evaluated with labels. Not to be changed."""
    tree = make_tree(tmp_path_factory.mktemp("evaluate") / "tree")
    before = Path.cwd()
    os.chdir(tree.root)
    acts = np.load("arrays/severe_2.npy")
    pl.DataFrame({"large": acts[:, 23] > 2, "even": np.arange(ROWS) % 2}).write_csv("labels.csv")
    raw = tree.config
    del raw["models"]["calm"]
    raw["models"]["severe"]["layers"] = [2]
    raw["train"]["variants"] = VARIANTS
    raw["evaluation"] = {
        "tokens": 1024,
        "labels": {"severe": {"kind": "table", "file": {"path": "labels.csv"}}},
        "probing": {"ks": [1, 2]},
    }
    tree.config = raw
    config = check_config(raw, "test")
    targets = {target.stage: target for target in wanted_targets(config)}
    statistics = compute_stats(acts[:2048], whitening=True)
    save_stats(statistics, config.stats_path("severe", 2), targets["stats"].key)
    for seed, variant in enumerate(VARIANTS):
        save_random_sae(config, variant, seed)
    run(config, Job("evaluate", "severe/layers_2-2", (targets["evaluate"],), ()))
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
    with torch.no_grad():
        expected = saved.sae.encode(torch.from_numpy(saved.preprocess.apply(acts))).numpy()
    np.testing.assert_allclose(seen.codes("wide-seed0").toarray(), expected, atol=1e-5)
    latents = seen.latents("wide-seed0")
    np.testing.assert_allclose(latents["density"], (expected > 0).mean(axis=0))
    np.testing.assert_allclose(latents["max_activation"], expected.max(axis=0), rtol=1e-5)
    dead = (expected == 0).all(axis=0)
    assert [state == "dead" for state in latents["state"]] == dead.tolist()
    assert set(latents["twin_sae"]) <= {"baseline-seed0", "baseline-seed5"}


def test_table_and_page(root: Path, config: dict[str, Any]) -> None:
    suite = check_config(config, "test")
    found = {Place("severe", 2): load_layer(folder(root) / "evaluation.json")}
    table, differences = evaluation_table(suite, found), differences_table(suite, found)
    assert table["sae"].to_list()[:3] == ["baseline-seed0", "baseline-seed5", "wide-seed0"]
    assert table.filter("trained")["concept_f1"].is_not_null().all()
    assert table["mcc_between_seeds"].is_not_null().to_list() == [True, True, False, False, False, False]
    neurons = table.filter(sae="neurons").row(0, named=True)
    assert neurons["concept_f1"] > table.filter(sae="random")["concept_f1"][0]  # a label is one neuron above a value
    assert (differences["high"] - differences["low"]).to_list() == pytest.approx(
        (2 * differences["smallest_reliable"]).to_list()
    )
    layers = table.select("model", "layer", "site", gamma_unit=pl.lit(2.5)).unique()
    rows = {"evaluation": table.to_dicts(), "evaluation_differences": differences.to_dicts()}
    page = '{% import "macros.html" as part with context %}{% include "evaluation.html" %}'
    html = (
        _environment()
        .from_string(page)
        .render(
            config=suite,
            rows=rows,
            evaluation_columns=evaluation_columns(table),
            difference_columns=difference_columns(differences),
            verdict_columns=VERDICT_COLUMNS,
            verdicts=verdicts(differences, layers),
            evaluation_notes=[("nothing", ["severe layer 2"])],
        )
    )
    assert "baseline-seed5" in html
    assert 'href="tables/evaluation_differences.csv"' in html
    assert evaluation_figure(table) is not None


def test_verdicts_count_layers_by_the_side_of_their_interval() -> None:
    bounds = {("fvu_up", 0.1, 0.2): "worse", ("fvu_down", -0.2, -0.1): "better", ("fvu_both", -0.1, 0.1): "undecided"}
    shared = {"site": "residual", "kind": "center", "reference": "baseline"}
    rows = [
        shared | {"model": name, "layer": 1, "measure": measure, "low": low, "high": high}
        for measure in ("example_fvu", "concept_f1")
        for name, low, high in bounds
    ]
    layers = pl.DataFrame({"model": [name for name, _, _ in bounds], "layer": 1, "site": "residual", "gamma_unit": 1.5})
    fvu, f1 = verdicts(pl.DataFrame(rows), layers)
    assert (fvu["better"], fvu["worse"], fvu["undecided"]) == (1, 1, 1)
    assert (fvu["better_at"], fvu["worse_at"]) == ("fvu_down L1 (γ 1.5)", "fvu_up L1 (γ 1.5)")
    assert (f1["better_at"], f1["worse_at"]) == ("fvu_up L1 (γ 1.5)", "fvu_down L1 (γ 1.5)")


EVALUATED, REPORT = "evaluate of severe layer 2", "report"
PAGES = {f"features of severe layer 2 {variant}" for variant in VARIANTS}


def test_an_edit_makes_what_it_touches_stale(config: dict[str, Any]) -> None:
    before = keys(config)
    config["evaluation"]["tokens"] = 512
    assert changed(before, keys(config)) == {EVALUATED, REPORT, *PAGES}
    config["evaluation"]["tokens"] = 1024
    config["train"]["variants"]["again"]["seed"] = 6
    assert changed(before, keys(config)) == {"train of severe layer 2 again", EVALUATED, REPORT, *PAGES}
    config["train"]["variants"]["again"]["seed"] = 5
    del config["evaluation"]
    assert changed(before, keys(config)) == {EVALUATED, REPORT, *PAGES}


def test_an_edited_label_makes_the_evaluation_stale(config: dict[str, Any]) -> None:
    before, text = keys(config), Path("labels.csv").read_text()
    Path("labels.csv").write_text(text.replace("false,1", "true,1", 1))
    try:
        assert changed(before, keys(config)) == {EVALUATED, REPORT, *PAGES}
    finally:
        Path("labels.csv").write_text(text)


def test_an_evaluation_waits_for_every_variant(config: dict[str, Any]) -> None:
    jobs = make_plan(check_config(config, "test")).jobs
    assert JOB not in jobs  # it is fresh
    config["evaluation"]["tokens"] = 512
    jobs = make_plan(check_config(config, "test")).jobs
    trainings = {f"train/severe/layer_2/{variant}" for variant in VARIANTS}
    assert set(jobs[JOB].after) == trainings
    assert JOB in jobs["report/all"].after


def test_a_variants_own_seed_and_size_that_are_the_suites_keep_its_key(config: dict[str, Any]) -> None:
    before = keys(config)
    config["train"]["variants"]["baseline"] = {"seed": 0, "d_sae": 64}
    assert changed(before, keys(config)) == set()


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
    (target,) = (one for one in wanted_targets(check_config(config, "test")) if one.stage == "evaluate")
    assert target.is_fresh()
    target.remove()
    assert not target.output.parent.exists()
    assert not target.is_fresh()
