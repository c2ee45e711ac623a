"""Losses of the dead look at the dead alone, products have the precision that was asked for, and nothing waits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.autograd import losses
from saelib.sae.autograd.dead_soon import DeadSoon
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.model import SAE
from saelib.sae.products import encoder_product, float32_products
from saelib.sae.trainer import TrainerSettings
from saelib.sources.precision import exact_float32
from tests.waits import HostReads

DEAD_AFTER = 160
METHODS = [(a, d) for a in ("topk", "batch_topk", "abs_topk", "relu") for d in ("auxk", "ghost_grads")]
METHODS.remove(("abs_topk", "ghost_grads"))

Make = Callable[..., SAE]
Batches = Callable[..., list[Tensor]]


def make_trainer(sae: SAE, options: dict[str, Any], soon: DeadSoon | None = None, **config: Any) -> TorchTrainer:
    settings = TrainConfig(d_sae=sae.d_sae, k=2, dead_after_examples=DEAD_AFTER, steps=80).model_copy(update=config)
    trainer = TorchTrainer(sae, TrainerSettings(settings, VariantConfig.model_validate(options), 1e-2, variance=11.0))
    trainer._dead_soon = soon
    return trainer


@pytest.mark.parametrize("refresh", [1, 3, 50])
@pytest.mark.parametrize(("architecture", "dead_latents"), METHODS)
def test_losses_over_those_that_may_be_dead_train_as_losses_over_the_dead(
    make_sae: Make, batches: Batches, architecture: str, dead_latents: str, refresh: int
) -> None:
    options = {"architecture": architecture, "dead_latents": dead_latents}
    soon = DeadSoon(DEAD_AFTER, refresh)
    ours, theirs = make_trainer(make_sae(architecture), options, soon), make_trainer(make_sae(architecture), options)
    for x in batches(60):
        ours.step(x)
        theirs.step(x)
    assert theirs.dead.any()
    assert torch.equal(ours.tokens_since_fired, theirs.tokens_since_fired)
    for name, parameter in theirs.sae.named_parameters():
        torch.testing.assert_close(ours.sae.get_parameter(name), parameter, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("refresh", [1, 4, 7])
def test_every_dead_latent_is_listed_at_every_step_and_few_others(refresh: int) -> None:
    generator = torch.Generator().manual_seed(0)
    soon = DeadSoon(200, refresh)
    silent, examples, sizes = torch.zeros(300, dtype=torch.int64), 0, []
    chance = torch.linspace(0, 0.3, 300) ** 2
    for step in range(120):
        batch = 10 if step < 90 else 40  # batches that grow overtake the forecast
        examples += batch
        silent = torch.where(torch.rand(300, generator=generator) < chance, 0, silent + batch)
        listed = soon.latents(silent, examples, batch)
        assert len(listed.unique()) == len(listed)
        assert set((silent >= 200).nonzero().flatten().tolist()) <= set(listed.tolist())
        sizes.append(len(listed))
    if refresh == 1:
        assert min(sizes[1:90]) < 30


def test_without_dead_latents_no_loss_of_theirs_is_computed(
    make_sae: Make, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_sae("topk"), {"dead_latents": "auxk"}, DeadSoon(10**6, 2), dead_after_examples=1)
    for x in batches(3):
        trainer.step(x)

    def computed(*_: object, **__: object) -> None:
        raise AssertionError("computes pre-activations of latents that are not dead")

    monkeypatch.setattr(losses, "_pre_activations_of", computed)
    for x in batches(5):
        trainer.step(x)


@pytest.mark.parametrize(("architecture", "dead_latents"), [*METHODS, ("topk", "none"), ("jumprelu", "pre_act")])
def test_nothing_waits_in_100_steps(
    make_sae: Make, batches: Batches, architecture: str, dead_latents: str, device: str
) -> None:
    options = {"architecture": architecture, "dead_latents": dead_latents}
    soon = DeadSoon(DEAD_AFTER, 7)
    trainer = make_trainer(make_sae(architecture, device=device), options, soon, steps=200)
    many = [x.to(device) for x in batches(103)]
    for x in many[:3]:
        trainer.step(x)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with HostReads() as reads:
            for x in many[3:]:
                trainer.step(x)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert reads.found == []


def test_a_step_in_tf32_allows_it_for_its_own_products_alone(
    make_sae: Make, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    matmul, seen = torch.backends.cuda.matmul, []
    update = TorchTrainer._update

    def noted(self: TorchTrainer) -> None:
        seen.append(matmul.fp32_precision)
        update(self)

    monkeypatch.setattr(TorchTrainer, "_update", noted)
    with exact_float32():
        for precision in ("tf32", "float32", "bfloat16"):
            make_trainer(make_sae("topk"), {}, precision=precision).step(batches(1)[0])
            assert matmul.fp32_precision == "ieee"
        with pytest.raises(ValueError, match="stop"), float32_products(True):
            raise ValueError("stop")
        assert matmul.fp32_precision == "ieee"
    assert seen == ["tf32", "ieee", "ieee"]


def test_bfloat16_rounds_the_factors_and_not_the_product(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, W, b = (torch.randn(*shape, generator=generator).to(device) for shape in ((16, 300), (300, 40), (40,)))
    found = encoder_product(x, W, b, "bfloat16").double()
    exact = x.bfloat16().double() @ W.bfloat16().double() + b
    assert (found - exact).abs().max() < 1e-4 < (exact - exact.bfloat16()).abs().max()
    assert (found - (x.double() @ W.double() + b)).abs().max() > 1e-2
