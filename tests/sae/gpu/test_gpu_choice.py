"""When sweeps train as one program, and a whole sweep that does."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saelib.activations.rows import ArrayRows
from saelib.config.training import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.sae import choose
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.choose import make_trainers, trainer_kind, why_not_on_gpu
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings
from saelib.train import checkpoint, sweep
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, Subject
from saelib.train.training import train_from_store, train_together

Settings = Callable[..., list[TrainerSettings]]
Start = Callable[..., SAE]


@pytest.fixture
def has_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: object())


@pytest.mark.usefixtures("has_triton")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"architecture": "batch_topk"},
        {"dead_latents": "auxk"},
        {"frozen": "b_dec"},
        {"optimizer": {"kind": "adam", "sparse": True}},
    ],
    ids=str,
)
def test_nothing_hinders(options: dict[str, Any], start: Start) -> None:
    assert why_not_on_gpu(start(), VariantConfig.model_validate(options)) is None


@pytest.mark.usefixtures("has_triton")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"architecture": "matryoshka_batch_topk"}, "architecture matryoshka"),
        ({"architecture": "relu"}, "architecture relu"),
        ({"dead_latents": "ghost_grads"}, "dead_latents ghost"),
        ({"optimizer": "sign_sgd"}, "optimizer sign_sgd"),
        ({"frozen": "features"}, "freeze"),
        ({"clip": 1.0}, "clip"),
        ({"aligned": True}, "align"),
        ({"bypass": {}}, "bypass"),
        ({"k_annealing": {}}, "constant k"),
    ],
    ids=str,
)
def test_torch_trains_the_rest(options: dict[str, Any], reason: str, start: Start) -> None:
    assert reason in (why_not_on_gpu(start(), VariantConfig.model_validate(options)) or "")


def test_torch_trains_without_triton(
    monkeypatch: pytest.MonkeyPatch, start: Start, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    monkeypatch.setattr(choose, "_device", lambda sae: "cuda")
    with caplog.at_level(logging.INFO):
        trainers = make_trainers(start(), settings((1e-3, 1e-2)))
    assert [type(trainer) for trainer in trainers] == [TorchTrainer] * 2
    assert trainers[0].sae.W_enc.data_ptr() != trainers[1].sae.W_enc.data_ptr()
    assert "Triton" in caplog.text


def test_torch_trains_on_other_devices(start: Start, settings: Settings) -> None:
    kind, reason = trainer_kind(start().to("meta"), settings()[0])
    assert kind is TorchTrainer
    assert "meta" in reason


@pytest.mark.usefixtures("has_triton")
@pytest.mark.parametrize(("d_in", "k", "reason"), [(5000, 4, "5,000"), (8, 5000, "5,000")])
def test_sizes_that_no_program_holds(d_in: int, k: int, reason: str) -> None:
    shapes = {"W_enc": (d_in, 6000), "W_dec": (6000, d_in), "b_enc": (6000,), "b_dec": (d_in,)}
    sae = SAE("topk", {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, k)
    assert reason in (why_not_on_gpu(sae, VariantConfig()) or "")


@pytest.mark.usefixtures("has_triton")
def test_the_largest_size_that_is_benchmarked_has_kernels() -> None:
    d_in, d_sae = 4096, 65_536
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    sae = SAE("topk", {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, k=64)
    assert why_not_on_gpu(sae, VariantConfig.model_validate({"dead_latents": "auxk"})) is None


CONFIG = TrainConfig(
    d_sae=16,
    k=2,
    batch_size=8,
    steps=5,
    learning_rates=(1e-3, 1e30, 1e-2),  # the second one diverges
    record_every=2,
    checkpoint_every=2,
    dead_after_examples=16,
)


def test_a_sweep_that_was_cut_off_ends_with_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed (docs/training.md says how to run these tests)")
    monkeypatch.setattr(choose, "_device", lambda sae: "cuda")
    random = np.random.default_rng(0)
    train, heldout = (ArrayRows(random.standard_normal((64, 6), np.float32), name, block_rows=64) for name in "ab")

    def run(folder: str) -> Path:
        data = LayerData(train, heldout, {"mean": np.zeros(6)})
        own = start_sweep(data, CONFIG, VariantConfig(), subject=Subject("toy", 0, "test"), seed=3)
        train_from_store(own, train, Destination(tmp_path / folder, "key"))
        return tmp_path / folder

    whole, step_all = run("whole"), sweep.step_all

    def stop(trainers: Any, *rest: Any) -> None:
        if trainers[0].steps_done == 3:
            raise UserError("cut off")
        step_all(trainers, *rest)

    monkeypatch.setattr(sweep, "step_all", stop)
    with pytest.raises(UserError, match="cut off"):
        run("resumed")
    assert checkpoint.STATE in {file.name for file in (tmp_path / "resumed").rglob("*")}
    monkeypatch.setattr(sweep, "step_all", step_all)
    resumed = run("resumed")
    described = json.loads((whole / "sweep.json").read_text())
    assert described["backend"].startswith("triton")
    assert [own["status"] for own in described["runs"]] == ["ok", "diverged", "ok"]
    for name in ("history.parquet", "sweep.json", "weights.safetensors"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_variants_that_read_the_same_rows_train_as_one_program_with_the_bits_of_each_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed (docs/training.md says how to run these tests)")
    from saelib.sae.gpu.trainer import SweepTrainer

    monkeypatch.setattr(choose, "_device", lambda sae: "cuda")
    random = np.random.default_rng(0)
    rows = ArrayRows(random.standard_normal((64, 6), np.float32), "rows", block_rows=64)
    by_batch = VariantConfig.model_validate({"architecture": "batch_topk", "dead_latents": "auxk"})
    names, config = ("baseline", "by_batch"), CONFIG.model_copy(update={"learning_rates": (1e-3, 1e30)})
    members: list[int] = []
    step = SweepTrainer.step
    monkeypatch.setattr(SweepTrainer, "step", lambda self, x: members.append(len(self.members)) or step(self, x))

    def started(folder: str) -> dict[sweep.RunningSweep, Destination]:
        data = LayerData(rows, rows, {"mean": np.zeros(6)})
        variants = dict(zip(names, (VariantConfig(), by_batch), strict=True))
        return {
            start_sweep(data, config, variant, subject=Subject("toy", 0, name), seed=3): Destination(
                tmp_path / folder / name, "key"
            )
            for name, variant in variants.items()
        }

    train_together(started("together"), rows, "toy")
    assert members == [4, 4, 2, 2, 2]  # two variants at two rates, one of which is seen to diverge at step 2
    for one, place in started("apart").items():
        train_from_store(one, rows, place)
    for name in names:
        for file in ("history.parquet", "sweep.json", "weights.safetensors"):
            ours, alone = (tmp_path / folder / name / file for folder in ("together", "apart"))
            assert ours.read_bytes() == alone.read_bytes(), (name, file)
