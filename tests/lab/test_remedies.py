"""Remedies: which pairs are trained, what is measured of them, and layers of real models as data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saelib import evaluation
from saelib.config import Config
from saelib.config.lab import RemedyExperiment
from saelib.config.load import check_config
from saelib.config.synthetic import BenchmarkDataConfig
from saelib.errors import UserError
from saelib.lab.remedies import SCORES, feature_scores, heldout
from saelib.lab.trainees import Trainee, classes
from saelib.pipeline.resources import job_resources, job_seconds
from saelib.pipeline.targets import wanted_targets
from saelib.sae.file import SavedSAE
from saelib.sae.fold import fold_preprocess
from saelib.store import StoreMetadata, StoreWriter
from saelib.synthetic.recipe import RECIPES
from tests.lab.cells import mean, run

VARIANTS: dict[str, Any] = {"none": {}, "center_median": {"preprocessing": "center_median"}}
SMALL: dict[str, Any] = {
    "kind": "remedies",
    "data": {"gamma": 20},
    "sae": {"d_sae": 100, "k": 5},
    "variants": VARIANTS,
    "batch_size": 256,
    "heldout_tokens": 1024,
    "steps": 300,
    "learning_rate": 3e-3,
    "seeds": 1,
}


def suite(**changes: Any) -> Config:
    return check_config({"experiments": {"e": {"shows": "x"} | SMALL | changes}}, "test")


def pairs(config: Config) -> list[tuple[str, str]]:
    return [(cell.settings["architecture"], cell.settings["variant"]) for cell in config.experiments["e"].cells()]


def test_every_variant_meets_every_architecture_that_it_fits() -> None:
    variants = VARIANTS | {"abs": {"architecture": "abs_topk"}, "annealed": {"k_annealing": {}}}
    config = suite(variants=variants, architectures={"topk": "topk", "relu": {"kind": "relu", "l1": 0.02}})
    assert pairs(config) == [
        *[("topk", name) for name in ("none", "center_median", "abs", "annealed")],
        *[("relu", name) for name in ("none", "center_median")],  # ReLU has no k, and abs_topk replaces TopK
    ]
    experiment: Any = config.experiments["e"]
    kinds = [experiment.variant_of(cell.settings).architecture.kind for cell in experiment.cells()]
    assert kinds == ["topk", "topk", "abs_topk", "topk", "relu", "relu"]
    assert len({cell.digest for cell in experiment.cells()}) == 6


def test_a_job_that_reads_its_plan_has_the_same_cells() -> None:
    """A plan holds the config with all of its defaults written out."""
    variants = VARIANTS | {"abs": {"architecture": "abs_topk"}}
    config = suite(variants=variants, architectures={"topk": "topk", "batch": "batch_topk"})
    read = Config.model_validate_json(config.model_dump_json())
    before, after = config.experiments["e"], read.experiments["e"]
    assert [cell.name for cell in before.cells()] == [cell.name for cell in after.cells()]
    assert [before.deciding(cell) for cell in before.cells()] == [after.deciding(cell) for cell in after.cells()]


def test_a_variant_keeps_its_options_with_another_architecture() -> None:
    variants = VARIANTS | {"w": {"preprocessing": {"kind": "partial_pca", "alpha": 0.3}, "dead_latents": "auxk"}}
    experiment: Any = suite(variants=variants, architectures={"batch": "batch_topk"}).experiments["e"]
    found = experiment.variant_of(list(experiment.cells())[-1].settings)
    assert found == experiment.variants["w"].model_copy(update={"architecture": found.architecture})
    assert found.architecture.kind == "batch_topk"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compare_with": ["baseline"]}, "compare_with: baseline is no variant; should be among none, center_median"),
        ({"data": {"edition": "tiny"}}, "edition"),
        ({"data": {"store": "s", "gamma": 2}}, "gamma"),
        ({"data": {"edition": "small", "d_in": 3}}, "d_in"),
        ({"data": {"store": ""}}, "store"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        suite(**changes)


def test_captions_and_comparisons_change_no_result() -> None:
    def decides(**changes: Any) -> list[Any]:
        experiment = suite(**changes).experiments["e"]
        return [experiment.deciding(cell) for cell in experiment.cells()]

    assert decides() == decides(compare_with=["none"], shows="other words")
    assert decides() == decides(variants=VARIANTS | {"more": {"aligned": True}})[:2]
    assert decides() != decides(steps=301)
    assert decides() != decides(architectures={"topk": {"kind": "batch_topk"}})


@pytest.mark.parametrize("edition", ["16k", "small"])
def test_the_benchmarks_sizes_are_those_of_its_recipe(edition: Any) -> None:
    config = BenchmarkDataConfig(edition=edition)
    assert (config.d_in, config.n_features) == (RECIPES[edition].d_in, RECIPES[edition].n_features)


def test_centering_saves_latents_features_and_error_that_a_large_mean_costs() -> None:
    found = run(**SMALL)
    none, centered = found["variant=none"], found["variant=center_median"]
    assert mean(none, "born_dead") > 0.85
    assert mean(none, "dead_total") > 0.85
    assert mean(none, "dead_total") == pytest.approx(mean(none, "dead_relu") + mean(none, "dead_topk_only"))
    assert mean(centered, "born_dead") == mean(centered, "dead_relu") == 0
    assert mean(centered, "dead_total") < 0.05
    assert mean(centered, "l0") == 5
    assert mean(centered, "fvu") < 0.5 * mean(none, "fvu")
    assert mean(centered, "f1") > 0.3 > mean(none, "f1")
    assert mean(centered, "mcc") > mean(none, "mcc")
    assert mean(centered, "choosing_token_fvu") != mean(centered, "token_fvu")  # other tokens
    assert mean(centered, "choosing_token_fvu") == pytest.approx(mean(centered, "token_fvu"), rel=0.1)


@pytest.mark.parametrize("preprocessing", ["zscore", "pca"])
def test_features_are_sought_in_the_models_own_activations(preprocessing: str) -> None:
    """Whitening bends the decoder's directions; scores are those of the SAE with the whitening folded in."""
    variants = VARIANTS | {"white": {"preprocessing": preprocessing}}
    experiment: Any = suite(variants=variants).experiments["e"]
    trainee = Trainee(experiment, list(experiment.cells())[-1], 0)
    (group,) = classes([trainee])
    for _ in range(20):
        group.step()
    ((_, sae),) = group.saes()
    tokens = heldout(trainee)
    assert tokens.codes is not None
    found = feature_scores(trainee, sae, tokens)
    folded = fold_preprocess(SavedSAE(sae, trainee.space.preprocess, {})).sae
    with torch.no_grad():
        codes = folded.activate(folded.hidden_pre(torch.from_numpy(tokens.reported.values))).numpy()
    truth = tokens.codes.dense(len(trainee.data.features))
    expected = evaluation.feature_scores(trainee.data.features, folded.W_dec.detach().numpy(), truth, codes)
    for name in SCORES:
        assert found[name] == pytest.approx(getattr(expected, name), abs=2e-3)


def store(path: Path, heldout_rows: np.ndarray, train_rows: np.ndarray) -> Path:
    """Writes rows as a store; each held-out example has 16 rows."""
    path.mkdir(parents=True)
    parts = {"train": train_rows, "heldout": heldout_rows}
    tokens = {split: len(part) for split, part in parts.items()}
    d_in = train_rows.shape[1]
    writer = StoreWriter(
        path, tokens=tokens, d_in=d_in, offset=train_rows.mean(0), chunk_rows=64, window_rows=128, seed=0
    )
    for split, part in parts.items():
        writer.append(split, part, (np.arange(len(part)) // 16).astype(np.int32))
    made = {"index_rows": writer.index_rows, "dtypes": writer.dtypes, "reasons": writer.reasons}
    sizes = {"d_in": d_in, "train_tokens": len(train_rows), "heldout_tokens": len(heldout_rows), "chunk_rows": 64}
    writer.finish(
        StoreMetadata(key="k", model="m", layer=0, dataset="none", versions={}, examples=tokens, **sizes, **made)
    )
    return path


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((32, 32)) * np.geomspace(3, 0.3, 32)[:, None]
    rows = (np.abs(rng.standard_normal((1600, 32))) @ mixing + 40).astype(np.float32)
    return store(tmp_path / "m" / "layer_0.zarr", rows[:320], rows[320:])


def test_a_layer_of_a_real_model_trains_as_synthetic_data_do(layer: Path) -> None:
    config = {"data": {"store": str(layer)}, "sae": {"d_sae": 64, "k": 4}, "steps": 200, "batch_size": 128}
    found = run(**SMALL | config | {"learning_rate": [1e-3, 1e-2]})
    assert set(found) == {f"learning_rate={rate}, variant={variant}" for rate in (0.001, 0.01) for variant in VARIANTS}
    none, centered = (found[f"learning_rate=0.01, variant={variant}"] for variant in VARIANTS)
    assert mean(none, "born_dead") > 0.5 > mean(centered, "born_dead")
    assert mean(centered, "fvu") < 0.5
    assert none.measured["f1"] == ((None,),)  # nobody knows the features


def test_halves_of_a_layer_share_no_example(layer: Path) -> None:
    experiment: Any = suite(data={"store": str(layer)}).experiments["e"]
    trainee = Trainee(experiment, next(iter(experiment.cells())), 0)
    tokens = heldout(trainee)
    assert (tokens.choosing.shape[0], tokens.reported.shape[0]) == (160, 160)
    together = np.concatenate([tokens.choosing.values, tokens.reported.values])
    assert len(np.unique(together, axis=0)) == 320
    trained = {row.tobytes() for row in trainee.data.signal(5000, np.random.default_rng(0))}
    assert not trained & {row.tobytes() for row in together}


def test_a_missing_store_says_what_to_do() -> None:
    with pytest.raises(UserError, match="there is no finished store at /nowhere; run the suite that extracts it"):
        run(**SMALL | {"data": {"store": "/nowhere"}})


def test_another_store_makes_results_stale(layer: Path, tmp_path: Path) -> None:
    config = suite(data={"store": str(layer)})
    (before, *_) = [target.key for target in wanted_targets(config) if target.stage == "lab"]
    layer.rename(tmp_path / "away")
    (after, *_) = [target.key for target in wanted_targets(config) if target.stage == "lab"]
    assert before != after


def test_resources_know_the_size_of_a_store(layer: Path) -> None:
    there, nowhere = suite(data={"store": str(layer)}), suite(data={"store": "/nowhere"})
    assert job_resources(there, "lab", "e/cell_1").mem_mb < job_resources(nowhere, "lab", "e/cell_1").mem_mb
    assert 0 < job_seconds(there, "lab", "e/cell_1") < job_seconds(nowhere, "lab", "e/cell_1")


def test_jobs_share_the_estimates_of_an_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full experiment has thousands of cells and more than a hundred jobs, each of which asks for its resources."""
    config, asked, cells = suite(steps=301), [], RemedyExperiment.cells
    monkeypatch.setattr(RemedyExperiment, "cells", lambda own: asked.append(1) or cells(own))
    first = job_resources(config, "lab", "e/cell_1", 1)
    assert job_resources(config, "lab", "e/cell_2", 1) == first
    assert len(asked) == 1
