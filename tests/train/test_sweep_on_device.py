"""A sweep whose rows, batches and measures are made on a device ends as on a CPU, killed or not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saelib.config import TrainConfig, VariantConfig
from saelib.train import sweep
from saelib.train.batches_on_device import DeviceBatches

TrainOn = Callable[..., Path]
CONFIG = TrainConfig(
    d_sae=48, k=4, batch_size=64, steps=30, learning_rates=(1e-3, 1e-2), record_every=10, checkpoint_every=8
)


def tokens(n: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, 16)) + 2).astype(np.float32)


def place(device: str) -> str:
    """A name of the device that is not "cpu": on a CPU too, rows are prepared as on a GPU then."""
    return "cpu:0" if device == "cpu" else "cuda:0"


@pytest.mark.parametrize("preprocessing", ["raw", "center_median", "zscore", "ln_center", "pca"])
def test_it_ends_as_on_a_cpu(
    train_on: TrainOn, device: str, preprocessing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = VariantConfig.model_validate({"preprocessing": preprocessing})
    used = []
    batches = DeviceBatches.batches
    monkeypatch.setattr(DeviceBatches, "batches", lambda self, start=0: used.append(start) or batches(self, start))
    both = {}
    for name in ("cpu", place(device)):
        folder = train_on(tokens(700, 0), tokens(400, 1), CONFIG, variant, folder=name.replace(":", "_"), device=name)
        both[name] = json.loads((folder / "sweep.json").read_text()), load_file(folder / "weights.safetensors")
    assert used == [0]
    (wanted, weights), (found, ours) = both.values()
    for field in ("mse", "token_fvu_median", "l0", "dead_total"):
        assert found["runs"][0][field] == pytest.approx(wanted["runs"][0][field], rel=1e-3, abs=1e-4)
    if device == "cpu" and preprocessing in ("raw", "center_median", "zscore"):  # the same batches, bit for bit
        assert all(torch.equal(ours[name], value) for name, value in weights.items())


def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch, train: Callable[[], Path]) -> None:
    """Trains until that step, and stops as if killed."""
    step_all = sweep.step_all

    def stop(trainers: Any, *rest: Any) -> None:
        if trainers[0].steps_done == step:
            raise KeyboardInterrupt
        step_all(trainers, *rest)

    monkeypatch.setattr(sweep, "step_all", stop)
    with pytest.raises(KeyboardInterrupt):
        train()
    monkeypatch.setattr(sweep, "step_all", step_all)


def test_killed_it_resumes_to_the_same_bits(train_on: TrainOn, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (tokens(700, 0), tokens(400, 1), CONFIG, VariantConfig.model_validate({"dead_latents": "auxk"}))
    undisturbed = train_on(*data, folder="undisturbed", device=place(device))
    stopped_at(21, monkeypatch, lambda: train_on(*data, device=place(device)))
    resumed = train_on(*data, device=place(device))
    for name in ("weights.safetensors", "history.parquet", "sweep.json"):
        assert (resumed / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.parametrize("back", [False, True], ids=["to the CPU", "from the CPU"])
def test_a_checkpoint_of_one_device_is_resumed_on_another(
    train_on: TrainOn, device: str, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (tokens(700, 0), tokens(400, 1), CONFIG, VariantConfig())
    first, second = ("cpu", place(device)) if back else (place(device), "cpu")
    undisturbed = train_on(*data, folder="undisturbed")
    stopped_at(21, monkeypatch, lambda: train_on(*data, device=first))
    wanted, found = (
        load_file(folder / "weights.safetensors") for folder in (undisturbed, train_on(*data, device=second))
    )
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0 if device == "cpu" else 1e-4, msg=name)
