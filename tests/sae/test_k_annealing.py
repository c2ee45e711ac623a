"""k that falls over the steps: its law, and steps against plain dense training with the k of each step."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saelib.config.training import KAnnealing, TrainConfig, VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.model import SAE
from saelib.sae.schedule import k_at
from saelib.sae.trainer import TrainerSettings

Make = Callable[..., SAE]
Batches = Callable[..., list[Tensor]]
VARIANCE, LR = 11.0, 1e-2


def test_k_falls_linearly_from_its_start_to_the_last_k():
    annealing = KAnnealing(start=110, until=0.5)
    found = [k_at(step, 40, 10, 7, annealing) for step in range(1, 41)]
    assert found == [110 - 5 * step for step in range(20)] + [10] * 20


@pytest.mark.parametrize(("largest", "first"), [(64, 64), (7, 7), (3, 5)])
def test_k_starts_at_the_width_unless_the_last_k_is_larger(largest: int, first: int):
    assert k_at(1, 40, 5, largest, KAnnealing()) == first
    assert k_at(40, 40, 5, largest, KAnnealing()) == k_at(3, 40, 5, largest, None) == 5


@pytest.mark.parametrize("dead_latents", ["none", "auxk"])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "abs_topk"])
def test_steps_are_those_of_dense_training_with_the_k_of_each_step(
    make_sae: Make, batches: Batches, dense_loss: Callable, architecture: str, dead_latents: str
):
    options = {"architecture": architecture, "dead_latents": dead_latents, "k_annealing": {"start": 7, "until": 0.8}}
    variant, sae, xs = VariantConfig.model_validate(options), make_sae(architecture), batches(20)
    p = {name: value.detach().clone().requires_grad_() for name, value in sae.named_parameters()}
    optimizer, silent = torch.optim.Adam(p.values(), lr=LR), torch.zeros(64, dtype=torch.int64)
    config = TrainConfig(d_sae=64, k=2, dead_after_examples=64, steps=20)
    trainer = TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=LR, variance=VARIANCE, seed=5))
    fired = []
    for step, x in enumerate(xs):
        trainer.step(x)
        k = 2 + round(5 * max(0, 1 - step / 16))
        loss, codes = dense_loss(p, x, variant, k, VARIANCE, silent, 64)
        silent = torch.where((codes != 0).any(0), 0, silent + len(x))
        fired.append(float((codes != 0).sum(1).double().mean()))
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            d = p["W_dec"]
            assert d.grad is not None
            d.grad -= (d.grad * d).sum(1, keepdim=True) * d
            optimizer.step()
            d /= d.norm(dim=1, keepdim=True)
    assert (fired[0], fired[-1]) == (7, 2)
    assert sae.k == 2
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter.detach(), p[name].detach(), rtol=1e-8, atol=1e-8)
