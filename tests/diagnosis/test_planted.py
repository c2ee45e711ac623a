"""Planted faults are found, named and mended."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import saelib
from saelib.activations.rows import ArrayRows
from saelib.config import TrainConfig, VariantConfig
from saelib.diagnosis.result import Diagnosis
from saelib.stats import compute_stats
from saelib.train.result import MeasuredRun, load_sweep
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, Subject
from saelib.train.training import train_from_store

D_SAE, K = 768, 8
EXPECTED = {
    "one dimension": "pca_whiten",
    "massive tokens": "mean_center",
    "three directions": "pca_whiten",
    "nothing wrong": "none",
    "all ones": "mean_center",
}
APPLIED = {"none": "raw", "mean_center": "center_median", "pca_whiten": "pca"}


@pytest.fixture(scope="module")
def found(layers: dict[str, NDArray[np.float32]]) -> dict[str, Diagnosis]:
    return {name: saelib.diagnose(x, d_sae=D_SAE, k=K, name=name) for name, x in layers.items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_fault_gets_its_remedy(found: dict[str, Diagnosis], name: str) -> None:
    assert found[name].recommendation == EXPECTED[name], found[name].verdict


def test_the_outlier_dimension_is_named(found: dict[str, Diagnosis]) -> None:
    (dimension,) = found["one dimension"].outlier_dimensions
    assert dimension.index == 37
    assert dimension.share > 0.99
    assert 3400 < dimension.mean < 3800
    assert "dimension 37 holds" in found["one dimension"].verdict


def test_massive_tokens_are_counted_and_placed(layers: dict[str, NDArray[np.float32]]) -> None:
    x = layers["massive tokens"].reshape(60, 100, -1)
    tokens = saelib.diagnose(x, d_sae=D_SAE, k=K).massive_tokens
    assert tokens.share == pytest.approx(0.01)
    assert (tokens.position, tokens.at_position) == (0, 1.0)
    assert tokens.norm_ratio > 50


def test_an_offset_that_layernorm_hides_shows_in_gamma_unit(found: dict[str, Diagnosis]) -> None:
    one = found["all ones"]
    assert one.gamma is not None
    assert one.gamma_unit is not None
    assert one.gamma < 0.5 < 3 < one.gamma_unit
    assert not one.outlier_dimensions


@pytest.mark.parametrize("name", EXPECTED)
def test_count_and_prediction_agree(found: dict[str, Diagnosis], name: str) -> None:
    for preprocessing, counted in found[name].measured.items():
        predicted = found[name].predicted[preprocessing]
        noise = 3 * np.hypot(counted.standard_error, predicted.standard_error)
        assert abs(counted.dead_total - predicted.dead_total) < 0.01 + noise, preprocessing


@pytest.mark.parametrize("name", [name for name, remedy in EXPECTED.items() if remedy != "none"])
def test_the_remedy_saves_latents_in_training(
    found: dict[str, Diagnosis], layers: dict[str, NDArray[np.float32]], name: str, tmp_path: Path
) -> None:
    """Dead latents after a short training, without the remedy and with it; both are printed."""
    dead = {
        preprocessing: trained_death(layers[name], preprocessing, tmp_path / preprocessing)
        for preprocessing in ("raw", APPLIED[found[name].recommendation])
    }
    print(f"{name}: dead after training {dead}")
    before, after = dead.values()
    assert before > 0.3
    assert after < before / 3


def trained_death(x: NDArray[np.float32], preprocessing: str, folder: Path) -> float:
    train, heldout = ArrayRows(x[:5000]), ArrayRows(x[5000:])
    config = TrainConfig.model_validate(
        {"d_sae": D_SAE, "k": K, "batch_size": 256, "steps": 150, "learning_rates": [1e-3], "record_every": 150}
    )
    variant = VariantConfig.model_validate({"preprocessing": preprocessing})
    data = LayerData(train, heldout, compute_stats(train).arrays)
    sweep = start_sweep(data, config, variant, subject=Subject("planted", 1, preprocessing), seed=0, device="cpu")
    train_from_store(sweep, train, Destination(folder, "k"))
    (run,) = load_sweep(folder / "sweep.json").runs
    assert isinstance(run, MeasuredRun)
    return run.dead_total
