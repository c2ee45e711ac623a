"""What the benchmarks of predictions count as an error, a miss and a false alarm."""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import death_law, remedies, theory
from benchmarks.death_law import Comparison
from saelib.config.load import check_config
from saelib.extract.stage import extract
from saelib.init_death.measure import measure
from saelib.init_death.result import save_result
from saelib.preprocessing.transform import Preprocessing
from saelib.stats import compute_stats, save_stats
from saelib.store import open_store

D_IN = 64


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a small suite: three Gaussian layers, whose means are 1, 2 and 4 times as long as their spread."""
    folder = tmp_path_factory.mktemp("suite")
    rng, files = np.random.default_rng(0), {}
    mean = rng.choice([-1, 1], D_IN)
    for layer, gamma in ((1, 1), (2, 2), (3, 4)):
        files[layer] = str(folder / f"{layer}.npy")
        np.save(files[layer], (rng.standard_normal((6000, D_IN)) + gamma * mean).astype(np.float32))
    (folder / "results" / "tables").mkdir(parents=True)
    (folder / "results" / "tables" / "layers.csv").write_text("model,layer,domain\nm,1,none\n")
    model = {"domain": "none", "source": {"family": "arrays", "files": files}, "layers": "1-3"}
    tokens = {"extraction": {"tokens": 3072, "heldout_tokens": 2048}}
    config = check_config({"results": str(folder / "results"), "models": {"m": model}} | tokens, "benchmark")
    extract("m", config, dict.fromkeys(files, "key"), {layer: config.store_path("m", layer) for layer in files})
    for layer in files:
        store = open_store(config.store_path("m", layer))
        save_stats(compute_stats(store.train), config.stats_path("m", layer), "key")
        death = measure(store.heldout, {"raw": Preprocessing(np.zeros(D_IN))}, d_sae=512, k=16, seeds=range(3))
        save_result(death, config.init_death_path("m", layer), "key")
    return folder / "results"


def test_the_target_is_one_point_and_two_standard_errors() -> None:
    def one(predicted: float) -> Comparison:
        return Comparison("m", 1, "512/16", "raw", counted=0.5, predicted=predicted, standard_error=0.01)

    assert not one(0.529).outside
    assert one(0.531).outside
    assert one(0.469).outside
    lines = death_law.table([one(0.5), one(0.6)])
    assert "m layer 1, 512/16, raw: counted 50.0%, predicted 60.0%" in lines[-1]


def test_errors_are_in_points() -> None:
    found = theory.errors_of([0.1, 0.5, 0.9], [0.2, 0.5, 0.6], ["a", "a", "b"])
    assert (found.mae, found.bias, found.largest) == pytest.approx((40 / 3, 20 / 3, 30))
    assert found.by_group == pytest.approx({"a": 5, "b": 30})


def test_parameters_are_chosen_on_other_models() -> None:
    """Each model alone is fitted best by what fits the other worst."""
    counted, models = np.array([0.0, 1.0]), pl.Series(["a", "b"])
    grid = {(1.0, 1.0): np.array([0.0, 0.2]), (2.0, 2.0): np.array([0.7, 1.0])}
    assert theory.leave_one_out(grid, counted, models).tolist() == [0.7, 0.2]


def case(raw: float, center: float, pca: float = 0.0, predicted: float | None = None) -> remedies.Case:
    counted = {"raw": raw, "center_median": center, "pca": pca}
    guess = counted | ({} if predicted is None else {"center_median": predicted})
    return remedies.Case(counted, guess, effective_rank=20, d_in=768, d_sae=2048, k=64)


def test_misses_and_false_alarms_are_told_apart() -> None:
    cases = [case(0.9, 0.2), case(0.9, 0.2, predicted=0.01), case(0.9, 0.01), case(0.9, 0.01, predicted=0.06)]
    found = remedies.judge(cases, remedies.FROM_PROBES)["probes > 5 %"]
    assert (found.cases, found.needed, found.misses, found.false_alarms) == (4, 2, 1, 1)


def test_the_least_invasive_that_is_enough_is_chosen() -> None:
    def chosen(*dead: float) -> str:
        return remedies.least(dict(zip(death_law.PREPROCESSINGS, dead, strict=True)), {})

    assert chosen(0.01, 0.0, 0.0) == "raw"
    assert chosen(0.5, 0.05, 0.0) == "center_median"
    assert chosen(0.5, 0.3, 0.0) == "pca"
    assert chosen(0.5, 0.3, 0.4) == "center_median"


def options(results: Path, kept: Path) -> argparse.Namespace:
    return argparse.Namespace(results=results, settings=["512/16"], every=1, probes=1024, append=kept)


@pytest.fixture(scope="module")
def counted(results: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Comparison], Path]:
    """Each layer's comparisons, and the file that keeps them."""
    kept = tmp_path_factory.mktemp("counted") / "kept.jsonl"
    return list(death_law.compare_all(options(results, kept))), kept


def test_the_cap_law_meets_its_target_on_gaussian_layers(counted: tuple[list[Comparison], Path]) -> None:
    found, _ = counted
    assert len(found) == 3 * len(death_law.PREPROCESSINGS)
    assert not any(one.outside for one in found)
    raw = [one.counted for one in found if one.preprocessing == "raw"]
    assert 0.1 < raw[0] < raw[1] < raw[2] < 0.95
    assert all(one.counted == 0 for one in found if one.preprocessing != "raw")


def test_counting_resumes_at_the_layers_that_are_not_kept(
    results: Path, counted: tuple[list[Comparison], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, kept = counted
    shorter = tmp_path / "kept.jsonl"
    shorter.write_text("".join(line for line in kept.open() if '"layer": 2' not in line))
    monkeypatch.setattr(death_law, "LATENTS", 0)  # what is counted anew is counted on three dictionaries
    again = list(death_law.compare_all(options(results, shorter)))
    new = {one.layer for one in again if one not in found}
    assert new == {2}
    assert {(one.layer, one.preprocessing) for one in again} == {(one.layer, one.preprocessing) for one in found}
    assert len(shorter.read_text().splitlines()) == len(found)


def test_rules_are_judged_by_what_was_counted(results: Path, counted: tuple[list[Comparison], Path]) -> None:
    cases = remedies.suite_cases(results, counted[1])["512/16"]
    assert [(case.d_in, case.d_sae, case.k, case.tokens) for case in cases] == 3 * [(D_IN, 512, 16, 2048)]
    assert remedies.judge(cases, remedies.FROM_PROBES)["probes > 5 %"] == remedies.Verdict(3, 0, 0, 0)
    assert remedies.judge_choices(cases)["probes"] == remedies.Verdict(3, 3, 0, 0)


def test_the_spectrum_of_a_gaussian_layer_tells_its_death(results: Path) -> None:
    found = theory.suite(results)
    best = found["suite: spectrum, Gaussian"]
    assert best.rho == 1
    assert best.mae < 3 < found["suite: paper's form, gamma"].mae
    assert list(best.by_group) == ["none", "m"]
