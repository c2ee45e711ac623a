"""The tanh penalty and the pre-act loss: definitions, token by token, whom they move, and how the first one rises."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.autograd.forward import tanh_penalty
from saelib.sae.autograd.losses import pre_act_loss
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

Make = Callable[..., SAE]
Batches = Callable[..., list[Tensor]]
JUMP = {"kind": "jumprelu", "initial_threshold": 0.3, "bandwidth": 0.2}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(20, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_the_tanh_penalty_is_a_smooth_count(make_sae: Make, x: Tensor):
    sae = make_sae(JUMP)
    with torch.no_grad():
        sae.W_dec *= 1.7  # rows count by their norms
        pre = sae.hidden_pre(x)
        z = sae.activate(pre)
        expected = sum(math.tanh(2.5 * 1.7 * code) for code in z.flatten().tolist()) / 20
        assert float(tanh_penalty(sae, pre, 0.2, 2.5)) == pytest.approx(expected)
        assert float(tanh_penalty(sae, pre, 0.2, 1e6)) == pytest.approx(float((z > 0).sum() / 20))


@pytest.mark.parametrize("architecture", [JUMP, "topk", "batch_topk", "relu"], ids=str)
def test_the_pre_act_loss_is_the_distance_to_the_threshold(make_sae: Make, x: Tensor, architecture):
    sae = make_sae(architecture)
    threshold = 0.3 if architecture == JUMP else 0.0
    if architecture == "batch_topk":
        sae.threshold.fill_(5.0)  # the bar of single tokens, which is none of training's
    with torch.no_grad():
        sae.W_dec[:] *= 1.7
        pre = sae.hidden_pre(x)
        expected = sum(max(0, threshold - one) * 1.7 for one in pre.flatten().tolist()) / 20
    found = pre_act_loss(sae, x, pre)
    assert found.item() == pytest.approx(expected)
    found.backward()
    assert sae.b_enc.grad is not None
    shares = -1.7 * (pre < threshold).double().mean(0)
    torch.testing.assert_close(sae.b_enc.grad, shares)
    if architecture == JUMP:
        torch.testing.assert_close(sae.threshold.grad, -shares)


def test_the_pre_act_loss_revives_what_nothing_else_reaches(make_sae: Make, batches: Batches):
    """Its gradient is small, and Adam's steps are not: a latent that only it moves rises by the rate."""
    revived, xs = {}, batches(20)
    for kind in ("none", "pre_act"):
        sae = make_sae()
        with torch.no_grad():
            sae.b_enc[:32] = -3.0
            sae.W_enc[:, :32] *= 1e-3
        variant = VariantConfig.model_validate({"dead_latents": kind})
        config = TrainConfig(d_sae=64, k=2, steps=400)
        trainer = TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=0.01, variance=7.0))
        for step in range(400):
            trainer.step(xs[step % 20])
        revived[kind] = int((trainer.tokens_since_positive[:32] < trainer.examples).sum())
    assert revived["none"] == 0
    assert revived["pre_act"] == 32


def test_units_of_the_data_change_nothing(make_sae: Make, batches: Batches):
    """Both are relative to the spread of the data: if that and all lengths double, so do the weights after a step."""
    weights = []
    for size in (1.0, 2.0):
        sae = make_sae({**JUMP, "initial_threshold": 0.3 * size})
        with torch.no_grad():
            sae.b_enc *= size
            sae.b_dec *= size
        variant = VariantConfig.model_validate(
            {
                "architecture": {**JUMP, "bandwidth": 0.2 * size, "penalty": {"kind": "tanh", "warmup": 0}},
                "dead_latents": {"kind": "pre_act", "coefficient": 0.1},
            }
        )
        settings = TrainerSettings(TrainConfig(d_sae=64, k=2, steps=9), variant, 0.01, variance=7 * size**2)
        trainer = TorchTrainer(sae, settings)
        trainer.step(size * batches(1)[0])
        assert sae.W_enc.grad is not None
        weights.append(sae.W_enc.grad)
    torch.testing.assert_close(weights[0], weights[1])


def test_the_coefficient_rises_from_0_over_its_fraction_of_the_steps(make_sae: Make, x: Tensor):
    found = []
    for warmup in (0.0, 0.5):
        architecture = {**JUMP, "penalty": {"kind": "tanh", "coefficient": 2.0, "warmup": warmup}}
        trainer = TorchTrainer(
            sae := make_sae(architecture),
            TrainerSettings(
                TrainConfig(d_sae=64, k=2, steps=8),
                VariantConfig.model_validate({"architecture": architecture}),
                1e-9,
                7.0,
            ),
        )
        penalties = []
        for step in range(1, 9):
            trainer.steps_done = step
            penalties.append(trainer._forward(x).penalty)
        found.append(torch.stack(penalties).detach() / 2 / tanh_penalty(sae, sae.hidden_pre(x), 0.2, 4.0).detach())
    torch.testing.assert_close(found[0], torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(found[1], torch.tensor([0.25, 0.5, 0.75, 1, 1, 1, 1, 1], dtype=torch.float64))
