"""Predicted death over sizes of the SAE, as the stage `init_death` keeps it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import saelib.extract.stage
import saelib.init_death.stage
import saelib.stats.stage
from saelib.activations.rows import ArrayRows
from saelib.config import Config
from saelib.config.load import check_config
from saelib.init_death.encoder import random_encoder
from saelib.init_death.landscape import D_SAE, K, Landscape, predict_landscape
from saelib.init_death.measure import measure
from saelib.init_death.probes import probe_death
from saelib.init_death.result import InitDeath, load_result, save_result
from saelib.pipeline.plan import make_plan
from saelib.preprocessing.transform import Preprocessing
from saelib.store import open_store

STAGES = {
    "extract": saelib.extract.stage.run,
    "stats": saelib.stats.stage.run,
    "init_death": saelib.init_death.stage.run,
}
D = 24


def shifted(tokens: int = 3000) -> np.ndarray:
    """Gaussian activations about a mean that kills about half of a dictionary."""
    x = np.random.default_rng(0).standard_normal((tokens, D), dtype=np.float32)
    x[:, 3] += 6
    return x


def predicted(d_sae: int, k: int) -> Landscape:
    return predict_landscape(probe_death(ArrayRows(shifted()), {"raw": Preprocessing(np.zeros(D))}), d_sae, k)


def run(config: Config) -> InitDeath:
    """Runs the stages up to `init_death` on a suite of one layer."""
    for job in make_plan(config).jobs.values():
        if job.stage in STAGES:
            STAGES[job.stage](config, job)
    return load_result(config.init_death_path("toy", 1))


def suite(folder: Path, **init_death: Any) -> Config:
    np.save(folder / "layer_1.npy", shifted())
    model = {"domain": "d", "license": "none", "notes": "made up", "layers": "1"}
    source = {"family": "arrays", "files": {1: str(folder / "layer_1.npy")}}
    return check_config(
        {
            "results": str(folder / "results"),
            "models": {"toy": model | {"source": source}},
            "extraction": {"tokens": 1500, "heldout_tokens": 1000, "chunk_rows": 500},
            "init_death": {"d_sae": 100, "k": 5, "seeds": 2} | init_death,
        },
        "suite",
    )


def test_the_grid_holds_the_pair_that_is_asked_for_and_what_is_possible() -> None:
    found = predicted(100, 5)
    assert (found.d_sae, found.k) == ((100, *D_SAE), (5, *K))
    none = [[cell is None for cell in row] for row in found.dead_total["raw"]]
    assert none == [[k > d_sae for k in found.k] for d_sae in found.d_sae]
    assert none == [[cell is None for cell in row] for row in found.standard_error["raw"]]


@pytest.mark.parametrize(("d_sae", "k"), [(100, 5), (512, 16), (2048, 64)])
def test_it_predicts_what_counting_finds(d_sae: int, k: int) -> None:
    found, seeds = predicted(100, 5), range(10)
    row, column = found.d_sae.index(d_sae), found.k.index(k)
    dead, error = found.dead_total["raw"][row][column], found.standard_error["raw"][row][column]
    counted = measure(ArrayRows(shifted()), {"raw": Preprocessing(np.zeros(D))}, d_sae, k, seeds)["raw"].dead_total
    assert dead is not None
    assert error is not None
    assert 0.2 < counted.mean < 0.9
    assert abs(dead - counted.mean) < 0.01 + 2 * np.hypot(error, counted.sd / np.sqrt(len(seeds)))


def test_the_stage_predicts_on_the_tokens_that_it_counts_on(tmp_path: Path) -> None:
    config = suite(tmp_path)
    found = run(config)
    assert found.landscape is not None
    assert list(found.landscape.dead_total) == ["raw", "center_median", "pca"]
    heldout = open_store(config.store_path("toy", 1)).heldout
    raw = probe_death(heldout, {"raw": Preprocessing(np.zeros(D))}, seed=config.seed + 2)
    expected = predict_landscape(raw, 100, 5)
    for field in ("dead_total", "standard_error"):
        own, alone = (np.array(getattr(of, field)["raw"], np.float64) for of in (found.landscape, expected))
        np.testing.assert_allclose(own, alone, atol=1e-6)  # products are shared among preprocessings


def test_no_probe_of_the_stage_is_a_latent_that_it_counts(tmp_path: Path) -> None:
    """Otherwise a prediction of 2,048 latents would agree with the count by construction."""
    config = suite(tmp_path, d_sae=2048, k=64)
    seeds = run(config).seeds
    probes = random_encoder(D, 2048, config.seed + config.init_death.seeds)
    for seed in seeds:
        assert (probes.T @ random_encoder(D, 2048, seed)).max() < 0.999


def test_only_preprocessings_of_the_config_are_predicted(tmp_path: Path) -> None:
    found = run(suite(tmp_path, preprocessings=["raw", "zscore"])).landscape
    assert found is not None
    assert list(found.dead_total) == ["raw"]


def test_without_any_that_is_recommended_nothing_is_predicted(tmp_path: Path) -> None:
    assert run(suite(tmp_path, preprocessings=["zscore"])).landscape is None


def test_a_file_without_predictions_can_be_read(tmp_path: Path) -> None:
    rows = ArrayRows(shifted(100))
    counted = measure(rows, {"raw": Preprocessing(np.zeros(D))}, 16, 3, [0])
    save_result(counted, tmp_path / "x.json", key="abc")
    assert load_result(tmp_path / "x.json") == counted
