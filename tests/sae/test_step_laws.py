"""Laws of each step: counters, clipping, norms, schedule, thresholds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

Make = Callable[..., SAE]
Variant = Callable[..., VariantConfig]
Batches = Callable[..., list[Tensor]]
K, DEAD_AFTER, LR, VARIANCE = 2, 64, 1e-2, 11.0


def make_trainer(sae: SAE, variant: VariantConfig, **options: object) -> TorchTrainer:
    config = TrainConfig(d_sae=64, k=K, dead_after_examples=DEAD_AFTER, steps=50).model_copy(update=options)
    return TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=LR, variance=VARIANCE, seed=5))


def test_counters_count_examples_and_a_selected_zero_is_not_firing(make_sae: Make, variant: Variant):
    sae = make_sae(k=64)  # every latent is selected for every token
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.fill_(1.0)
    trainer = make_trainer(sae, variant())
    for _ in range(5):  # 16 examples a step, dead at 64
        with torch.no_grad():
            sae.b_enc[4] = 0.0
        trainer.step(torch.zeros(16, 7, dtype=torch.float64))
    assert trainer.examples == 80
    assert trainer.tokens_since_fired.nonzero().flatten().tolist() == [4]
    assert trainer.tokens_since_fired[4] == trainer.tokens_since_positive[4] == 80
    assert trainer.dead.nonzero().flatten().tolist() == [4]


def test_a_positive_latent_that_is_never_selected_is_silent_but_not_negative(make_sae: Make, variant: Variant):
    sae = make_sae()
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.copy_(torch.arange(64.0) - 10)
    trainer = make_trainer(sae, variant())
    trainer.step(torch.zeros(16, 7, dtype=torch.float64))
    assert (trainer.tokens_since_fired == 0).nonzero().flatten().tolist() == [62, 63]
    assert (trainer.tokens_since_positive == 0).nonzero().flatten().tolist() == list(range(11, 64))


def test_clipping_shortens_the_gradient_of_all_parameters_together(make_sae: Make, variant: Variant, batches: Batches):
    x = batches(1)[0]
    free, clipped, loose = make_sae(), make_sae(), make_sae()
    for sae, limit in ((free, None), (clipped, 1e-3), (loose, 1e6)):
        make_trainer(sae, variant(clip=limit)).step(x)
    gradients = [torch.cat([p.grad.flatten() for p in sae.parameters()]) for sae in (free, clipped, loose)]  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[1].norm().item(), 1e-3, rtol=1e-3, atol=0)
    torch.testing.assert_close(gradients[1] / gradients[1].norm(), gradients[0] / gradients[0].norm())
    assert torch.equal(gradients[2], gradients[0])


def test_gradient_norms_are_those_before_projection_and_clipping(
    make_sae: Make, variant: Variant, batches: Batches, dense_loss: Callable
):
    sae, method, x = make_sae(), variant(clip=1e-6), batches(1)[0]
    p = {name: value.detach().clone().requires_grad_() for name, value in sae.named_parameters()}
    dense_loss(p, x, method, K, VARIANCE, torch.zeros(64, dtype=torch.int64), DEAD_AFTER)[0].backward()
    norm = {name: float(value.grad.norm()) for name, value in p.items() if value.grad is not None}
    trainer = make_trainer(sae, method)
    trainer.step(x)
    found = trainer.gradient_norms()
    assert found["W"] == pytest.approx((norm["W_enc"] ** 2 + norm["W_dec"] ** 2) ** 0.5)
    assert found["b_dec"] == pytest.approx(norm["b_dec"])


def test_the_rate_follows_the_schedule(make_sae: Make, variant: Variant, batches: Batches):
    # Under SignSGD a bias moves by the rate of the step.
    sae = make_sae()
    schedule = {"warmup": 0.5, "decay_from": 0.5}
    trainer = make_trainer(sae, variant(optimizer="sign_sgd", schedule=schedule), steps=4)
    moved = []
    for x in batches(4):
        before = sae.b_dec.detach().clone()
        trainer.step(x)
        moved.append((sae.b_dec - before).abs().max().item())
    assert moved == pytest.approx([LR / 2, LR, LR * 2 / 3, LR / 3])


def test_thresholds_stop_at_zero(make_sae: Make, variant: Variant, batches: Batches):
    # The penalty on too low an L0 pulls thresholds down, the faster the higher the rate.
    architecture = {"kind": "jumprelu", "initial_threshold": 0.02, "bandwidth": 0.2, "target_l0": 60}
    sae = make_sae(architecture)
    trainer = make_trainer(sae, variant(architecture=architecture, optimizer="sign_sgd"))
    for x in batches(5, mean=0.0):
        trainer.step(x)
    assert sae.threshold.amin() == 0
