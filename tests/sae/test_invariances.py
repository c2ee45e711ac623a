"""Training does not notice the orientation of the data, its units, and its origin."""

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
ARCHITECTURES = ["topk", "batch_topk", "relu", {"kind": "jumprelu", "initial_threshold": 0.3, "bandwidth": 0.2}]
VARIANCE = 11.0


def train(sae: SAE, variant: VariantConfig, xs: list[Tensor], variance: float = VARIANCE, rate: float = 1e-2) -> None:
    config = TrainConfig(d_sae=64, k=2, dead_after_examples=64)
    trainer = TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=rate, variance=variance))
    for x in xs:
        trainer.step(x)


@torch.no_grad()
def turn(sae: SAE, Q: Tensor) -> None:
    """Make `sae` read x Q as it read x."""
    sae.W_enc.copy_(Q.T @ sae.W_enc)
    sae.W_dec.copy_(sae.W_dec @ Q)
    sae.b_dec.copy_(sae.b_dec @ Q)


def assert_same(found: SAE, expected: SAE) -> None:
    for (name, a), b in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("dead_latents", ["none", "auxk", "ghost_grads"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_gradient_descent_commutes_with_rotation(
    make_sae: Make, variant: Variant, batches: Batches, architecture, dead_latents: str
):
    # Adam whose epsilon dwarfs all gradients is gradient descent with momentum: the optimizer sees no axes.
    method = variant(
        architecture=architecture, dead_latents=dead_latents, optimizer={"kind": "adam", "epsilon": 1e9}, clip=0.5
    )
    Q, xs = torch.linalg.qr(batches(1)[0][:7])[0], batches(30)
    before, after = make_sae(architecture), make_sae(architecture)
    train(before, method, xs, rate=1e8)
    assert not torch.equal(before.W_dec, after.W_dec)
    turn(before, Q)
    turn(after, Q)
    train(after, method, [x @ Q for x in xs], rate=1e8)
    assert_same(after, before)


@pytest.mark.parametrize("optimizer", ["adam", {"kind": "adam", "sparse": True}, "sign_sgd"], ids=str)
def test_every_optimizer_commutes_with_a_change_of_axes(make_sae: Make, variant: Variant, batches: Batches, optimizer):
    # Adam and SignSGD see axes, but neither their order nor their signs.
    signs = torch.tensor([1.0, -1, -1, 1, 1, -1, 1], dtype=torch.float64)
    Q, xs = torch.diag(signs)[[3, 0, 6, 1, 5, 2, 4]], batches(30)
    before, after = make_sae(), make_sae()
    method = variant(optimizer=optimizer, dead_latents="auxk")
    train(before, method, xs)
    turn(before, Q)
    turn(after, Q)
    train(after, method, [x @ Q for x in xs])
    assert_same(after, before)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_in_other_units_weights_have_the_same_gradient_and_biases_one_that_is_smaller_by_the_unit(
    make_sae: Make, variant: Variant, batches: Batches, architecture
):
    # x -> c x with biases, thresholds and variance to match: the loss is the same number, so d loss / d W is the same,
    # and what is measured in units of x has a gradient in 1 / units.
    c, x = 8.0, batches(1)[0]
    scaled = architecture
    if architecture == "relu":
        architecture, scaled = {"kind": "relu", "l1": 0.4}, {"kind": "relu", "l1": 0.4 / c}
    elif isinstance(architecture, dict):
        scaled = architecture | {"bandwidth": c * architecture["bandwidth"]}
    plain, large = make_sae(architecture), make_sae(architecture)
    with torch.no_grad():
        for name, value in large.named_parameters():
            if name in ("b_enc", "b_dec", "threshold"):
                value *= c
    train(plain, variant(architecture=architecture), [x], rate=1e-9)
    train(large, variant(architecture=scaled), [c * x], variance=c**2 * VARIANCE, rate=1e-9)
    for (name, a), b in zip(large.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert b.grad.any()
        unit = 1.0 if name in ("W_enc", "W_dec") else c
        torch.testing.assert_close(a.grad * unit, b.grad, rtol=1e-9, atol=1e-12)


def test_the_rate_of_a_bias_knows_no_units(make_sae: Make, variant: Variant, batches: Batches):
    # Hence it takes c times as many steps to learn a mean that is c times as large (paper, C.3).
    x, found = batches(1)[0], []
    for c in (1.0, 1000.0):
        sae = make_sae()
        with torch.no_grad():
            sae.b_enc.zero_()
            sae.b_dec.zero_()
        train(sae, variant(optimizer="sign_sgd"), [c * x], variance=c**2 * VARIANCE)
        found.append(sae)
    assert_same(*found)
    assert found[0].b_dec.abs().unique().tolist() == pytest.approx([1e-2])


def test_a_center_in_b_dec_is_a_shift_of_the_data(make_sae: Make, variant: Variant, batches: Batches):
    xs = batches(30)
    shift = 1000 * xs[0][0]
    here, there = make_sae(), make_sae()
    with torch.no_grad():
        there.b_dec += shift
    train(here, variant(dead_latents="auxk"), xs)
    train(there, variant(dead_latents="auxk"), [x + shift for x in xs])
    with torch.no_grad():
        there.b_dec -= shift
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-4, atol=1e-6)
