"""The choice of the trainer, its reason in the log, and several trainers on one batch."""

import logging

import pytest
import torch
from torch import Tensor

from saelib.config.sae_architectures import AbsTopK, BatchTopK, MatryoshkaBatchTopK, ReLU
from saelib.config.training import Adam, AuxK, Bypass, GhostGradients, KAnnealing, SignSGD, TrainConfig, VariantConfig
from saelib.sae import choose
from saelib.sae.choose import make_trainer, step_all
from saelib.sae.kernels.cpu import why_unsupported
from saelib.sae.model import SAE, Architecture
from saelib.sae.trainer import Trainer, TrainerSettings

needs_kernels = pytest.mark.skipif(why_unsupported() is not None, reason="the kernels do not run on this processor")


def make_sae(d_in: int = 16, d_sae: int = 64, architecture: Architecture = "topk") -> SAE:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator))
    biases = {"b_enc": torch.zeros(d_sae), "b_dec": torch.zeros(d_in)}
    return SAE(architecture, {"W_enc": rows.clone().T, "W_dec": rows.clone(), **biases}, 4)


def trainer_for(variant: VariantConfig, rate: float = 1e-3, threads: int = 1, **shape: int) -> Trainer:
    sae = make_sae(architecture=variant.trained_architecture, **shape)
    config = TrainConfig(d_sae=sae.d_sae, k=4, steps=10)
    return make_trainer(
        sae, TrainerSettings(config, variant, learning_rate=rate, variance=1.0, seed=0, threads=threads)
    )


@needs_kernels
@pytest.mark.parametrize(
    ("variant", "d_sae", "name"),
    [
        (VariantConfig(), 4096, "KernelTrainer"),
        (VariantConfig(), 64, "SmallKernelTrainer"),
        (VariantConfig(dead_latents=AuxK(kind="auxk")), 64, "SmallKernelTrainer"),
        (VariantConfig(dead_latents=AuxK(kind="auxk")), 4096, "KernelTrainer"),
        (VariantConfig(architecture=BatchTopK(kind="batch_topk")), 64, "BatchTopKTrainer"),
        (VariantConfig(architecture=MatryoshkaBatchTopK(kind="matryoshka_batch_topk")), 64, "MatryoshkaTrainer"),
        (VariantConfig(optimizer=Adam(sparse=True), frozen="b_dec"), 64, "SmallKernelTrainer"),
        (VariantConfig(optimizer=SignSGD(kind="sign_sgd")), 64, "SmallKernelTrainer"),
    ],
)
def test_kernels_train_what_they_can(
    variant: VariantConfig, d_sae: int, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer = trainer_for(variant, d_sae=d_sae)
    assert type(trainer).__name__ == name
    assert len([record for record in caplog.records if record.name == "saelib.sae.choose"]) == 1


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (VariantConfig(architecture=ReLU(kind="relu")), "architecture relu"),
        (VariantConfig(architecture=AbsTopK(kind="abs_topk")), "architecture abs_topk"),
        (VariantConfig(dead_latents=GhostGradients(kind="ghost_grads")), "dead_latents ghost"),
        (VariantConfig(clip=1.0), "clip"),
        (VariantConfig(aligned=True), "align"),
        (VariantConfig(frozen="decoder"), "freeze the decoder"),
        (VariantConfig(bypass=Bypass()), "bypass"),
        (VariantConfig(k_annealing=KAnnealing()), "constant k"),
    ],
)
def test_torch_trains_the_rest_and_the_log_says_why(
    variant: VariantConfig, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer = trainer_for(variant)
    assert type(trainer).__name__ == "TorchTrainer"
    (record,) = caplog.records
    assert reason in record.message


def test_torch_trains_where_the_kernels_do_not_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choose, "why_unsupported", lambda: "the processor is of another kind")
    with caplog.at_level(logging.INFO):
        trainer = trainer_for(VariantConfig())
    assert type(trainer).__name__ == "TorchTrainer"
    assert "of another kind" in caplog.text
    step_all([trainer], torch.randn(20, 16), threads=2)
    assert trainer.steps_done == 1


@needs_kernels
def test_several_trainers_on_one_batch_step_as_each_alone() -> None:
    x: Tensor = torch.randn(100, 16, generator=torch.Generator().manual_seed(1))
    kinds = [VariantConfig(), VariantConfig(), VariantConfig(clip=1.0), VariantConfig()]
    shapes = [{}, {}, {}, {"d_sae": 8192}]  # small, small, torch, large

    def trainers() -> list[Trainer]:
        numbered = enumerate(zip(kinds, shapes, strict=True))
        return [trainer_for(variant, 1e-3 * (1 + i), 2, **shape) for i, (variant, shape) in numbered]

    together, apart = trainers(), trainers()
    for _ in range(3):
        step_all(together, x, threads=2)
        for trainer in apart:
            trainer.step(x)
    for one, other in zip(together, apart, strict=True):
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
        assert one.steps_done == 3


@needs_kernels
def test_the_log_says_where_bfloat16_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    config = TrainConfig(d_sae=64, k=4, steps=10)
    for precision, expected in (("bfloat16", True), ("float32", False)):
        caplog.clear()
        own = config.model_copy(update={"precision": precision})
        with caplog.at_level(logging.INFO):
            make_trainer(make_sae(), TrainerSettings(own, VariantConfig(), learning_rate=1e-3, variance=1.0, seed=0))
        assert ("has no effect" in caplog.text) is expected
