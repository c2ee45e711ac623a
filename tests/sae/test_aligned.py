"""Aligned encoder and decoder against plain autograd on the reparametrized SAE, and the law w_enc . w_dec = 1."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.aligned import align
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.initial_weights import initial_sae
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

Make = Callable[..., SAE]
Batches = Callable[..., list[Tensor]]
K, DEAD_AFTER, LR, VARIANCE = 2, 64, 1e-2, 11.0
ARCHITECTURES = [
    "topk",
    "batch_topk",
    "abs_topk",
    {"kind": "relu", "l1": 0.02},
    {"kind": "jumprelu", "initial_threshold": 0.3, "bandwidth": 0.2},
]


def trained(sae: SAE, options: dict, xs: list[Tensor]) -> TorchTrainer:
    variant = VariantConfig.model_validate(options)
    config = TrainConfig(d_sae=64, k=K, dead_after_examples=DEAD_AFTER, steps=50)
    trainer = TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=LR, variance=VARIANCE, seed=5))
    for x in xs:
        trainer.step(x)
    return trainer


def products(sae: SAE) -> Tensor:
    return (sae.W_enc.T * sae.W_dec).sum(1).detach()


@pytest.mark.parametrize("dead_latents", ["none", "auxk"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_steps_are_those_of_adam_on_the_free_parameters(
    make_sae: Make, batches: Batches, dense_loss: Callable, architecture, dead_latents: str
):
    options = {"architecture": architecture, "dead_latents": dead_latents, "aligned": True}
    variant, sae, xs = VariantConfig.model_validate(options), make_sae(architecture), batches(30)
    align(sae.W_enc, sae.W_dec)
    p = {name: value.detach().clone().requires_grad_() for name, value in sae.named_parameters()}
    v, d = p["W_enc"], p["W_dec"]  # free: nothing keeps v . d at 1 but the map below
    optimizer, silent = torch.optim.Adam(p.values(), lr=LR), torch.zeros(64, dtype=torch.int64)

    def aligned() -> Tensor:
        return v + (1 - (v * d.T).sum(0)) * d.T

    for x in xs:
        loss, codes = dense_loss({**p, "W_enc": aligned()}, x, variant, K, VARIANCE, silent, DEAD_AFTER)
        silent = torch.where((codes != 0).any(0), 0, silent + len(x))
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            assert d.grad is not None
            d.grad -= (d.grad * d).sum(1, keepdim=True) * d
            optimizer.step()
            d /= d.norm(dim=1, keepdim=True)
            v.copy_(aligned())
            if "threshold" in p:
                p["threshold"].clamp_(min=0)
    trained(sae, options, xs)
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter.detach(), p[name].detach(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(products(sae), torch.ones(64, dtype=torch.float64))


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sign_sgd"},
        {"optimizer": {"kind": "adam", "sparse": True}},
        {"dead_latents": {"kind": "resample", "every": 8}},
        {"dead_latents": "ghost_grads", "clip": 0.1},
        {"project_decoder": False},
        {"frozen": "b_dec"},
    ],
    ids=str,
)
def test_the_product_stays_1_whatever_moves_the_directions(make_sae: Make, batches: Batches, options: dict):
    sae = make_sae()
    align(sae.W_enc, sae.W_dec)
    before = sae.W_enc.detach().clone()
    trained(sae, options | {"aligned": True}, batches(30))
    torch.testing.assert_close(products(sae), torch.ones(64, dtype=torch.float64))
    assert not torch.equal(sae.W_enc, before)


@pytest.mark.parametrize("tied", [True, False])
def test_training_starts_aligned_and_a_tied_start_is_so_already(tied: bool):
    config = TrainConfig(d_sae=64, k=2)
    plain, aligned = (
        initial_sae(7, config, VariantConfig.model_validate({"init": {"tied": tied}, "aligned": wanted}), seed=0)
        for wanted in (False, True)
    )
    torch.testing.assert_close(products(aligned), torch.ones(64))
    assert torch.equal(plain.W_dec, aligned.W_dec)
    assert torch.equal(plain.W_enc, aligned.W_enc) == tied


def test_a_latent_at_rest_keeps_its_bits_in_float32(make_sae: Make, batches: Batches):
    sae = make_sae(d_sae=512).float()
    with torch.no_grad():
        sae.b_enc[5:] = -1e6  # nothing but the first five ever fires
        sae.W_enc *= 30
    for _ in range(3):
        align(sae.W_enc, sae.W_dec)
    before = sae.W_enc.detach().clone()
    variant = VariantConfig.model_validate({"aligned": True})
    config = TrainConfig(d_sae=512, k=K, steps=50)
    trainer = TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=LR, variance=VARIANCE))
    for x in batches(3):
        trainer.step(x.float())
    assert torch.equal(sae.W_enc[:, 5:], before[:, 5:])
    assert not torch.equal(sae.W_enc[:, :5], before[:, :5])
