"""BatchTopK and Matryoshka on the kernels against float64 autograd, and laws: bits, resuming, ties, bad values."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.initial_weights import initial_sae
from saelib.sae.kernels.cpu import why_unsupported
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason="the kernels do not run on this processor")

D_IN, D_SAE, K, TOKENS, STEPS = 40, 300, 8, 450, 20
NESTED = {"kind": "matryoshka_batch_topk", "prefixes": (10, 40, 150)}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "auxk": {"dead_latents": {"kind": "auxk", "k": 9}},
    "frozen bias": {"frozen": "b_dec"},
    "frozen features": {"frozen": "features"},
    "sparse adam": {"optimizer": {"kind": "adam", "sparse": True}},
    "nested": {"architecture": NESTED},
    "nested, auxk": {"architecture": NESTED, "dead_latents": {"kind": "auxk", "k": 9}},
    "nested, frozen bias": {"architecture": NESTED, "frozen": "b_dec"},
    "nested, frozen features": {"architecture": NESTED, "frozen": "features"},
}


def variant_of(name: str) -> VariantConfig:
    return VariantConfig.model_validate({"architecture": "batch_topk", **VARIANTS[name]})


def make_sae(seed: int = 0) -> SAE:
    sae = initial_sae(D_IN, TrainConfig(d_sae=D_SAE, k=K), variant_of("plain"), seed=seed)
    with torch.no_grad():
        sae.b_enc[::10] -= 4
    return sae


def settings_of(name: str, threads: int = 1) -> TrainerSettings:
    config = TrainConfig(d_sae=D_SAE, k=K, steps=STEPS, dead_after_examples=3 * TOKENS)
    return TrainerSettings(config, variant_of(name), learning_rate=1e-3, variance=40.0, threads=threads)


def make_trainer(name: str = "plain", threads: int = 1, sae: SAE | None = None):
    from saelib.sae.kernels.batch_topk import BatchTopKTrainer
    from saelib.sae.kernels.matryoshka import MatryoshkaTrainer

    kind = MatryoshkaTrainer if "nested" in name else BatchTopKTrainer
    return kind(sae or make_sae(), settings_of(name, threads))


def batches(steps: int = STEPS) -> list[Tensor]:
    """The size of tokens differs much, and so does the number of latents that they select."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.rand(steps, TOKENS, 1, generator=generator).exp() ** 2
    return list(1 + sizes * torch.randn(steps, TOKENS, D_IN, generator=generator))


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_agree_with_float64_autograd(name: str) -> None:
    fast, start = make_trainer(name), make_sae().double().state_dict()
    exact = TorchTrainer(copy.deepcopy(make_sae()).double(), settings_of(name))
    for x in batches():
        fast.step(x)
        exact.step(x.double())
        assert fast.tokens_since_fired.tolist() == exact.tokens_since_fired.tolist()
        assert fast.tokens_since_positive.tolist() == exact.tokens_since_positive.tolist()
        assert fast.gradient_norms() == pytest.approx(exact.gradient_norms(), rel=1e-3)
    assert fast.tokens_since_fired.any()
    for key, value in exact.sae.state_dict().items():
        found = fast.sae.state_dict()[key].double()
        assert (found - value).norm() <= 1e-3 * (value - start[key]).norm(), key


@pytest.mark.parametrize("name", ["auxk", "nested, auxk"])
def test_neither_threads_nor_a_restart_change_a_bit(name: str) -> None:
    whole, threaded, before, after = (make_trainer(name, threads) for threads in (1, 3, 1, 2))
    steps = batches()
    for x in steps:
        whole.step(x)
        threaded.step(x)
    for x in steps[:12]:
        before.step(x)
    after.load_state_dict(before.state_dict())
    for x in steps[12:]:
        after.step(x)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, threaded.state_dict()[key]), key
        assert torch.equal(value, after.state_dict()[key]), key


def selected(sae: SAE, x: Tensor) -> tuple[list[list[int]], float]:
    """The latents that each token selects in a step from `sae`, and the bar."""
    trainer = make_trainer(sae=sae)
    trainer.step(x)
    codes = trainer._passes["main"].codes
    return [row[:count].tolist() for row, count in zip(codes.indices, codes.counts, strict=True)], trainer._bar


def test_of_equal_values_the_first_are_taken() -> None:
    sae = make_sae()
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.fill_(1.0)
        sae.b_enc[7] = 2.0
    latents, bar = selected(sae, torch.zeros(20, D_IN))
    first = [i for i in range(D_SAE) if i != 7][: K * 20 - 20]
    assert latents[0] == sorted([*first, 7])
    assert latents[1:] == [[7]] * 19
    assert bar == 1.0


def test_too_few_positive_values_are_all_taken() -> None:
    sae = make_sae()
    with torch.no_grad():
        sae.b_enc.fill_(-9.0)
        sae.b_enc[3] = 9.0
    (x, *_), before = batches(1), make_sae()
    latents, bar = selected(sae, x / 10)
    with torch.no_grad():
        sae = make_sae()
        hidden = (x / 10 - before.b_dec) @ before.W_enc - 9
        hidden[:, 3] += 18
    assert latents == [row.nonzero().flatten().tolist() for row in hidden > 0]
    assert bar == 0.0


def test_the_bar_may_fall_far_from_one_batch_to_the_next() -> None:
    fast, exact = make_trainer(), TorchTrainer(make_sae().double(), settings_of("plain"))
    (x, *_) = batches(1)
    for factor in (1.0, 1e-3, 100.0, 1e-4, 0.0, 1.0):
        fast.step(factor * x)
        exact.step(factor * x.double())
        assert fast.tokens_since_fired.tolist() == exact.tokens_since_fired.tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", ["plain", "nested"])
def test_bad_values_neither_crash_nor_hide(name: str, bad: float) -> None:
    trainer = make_trainer(name)
    steps = batches(6)
    steps[2][3] = bad
    for x in steps:
        trainer.step(x)
    assert not trainer.sae.decode(torch.zeros(1, D_SAE)).isfinite().all()
