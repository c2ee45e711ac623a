"""Fifty steps of every method against a plain dense training, and the laws that every step keeps."""

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
ARCHITECTURES = [
    "topk",
    "batch_topk",
    {"kind": "matryoshka_batch_topk", "prefixes": (8, 30)},
    "abs_topk",
    {"kind": "relu", "l1": 0.02},
    {"kind": "jumprelu", "initial_threshold": 0.3, "bandwidth": 0.2},
    {"kind": "jumprelu", "initial_threshold": 0.3, "bandwidth": 0.2, "penalty": {"kind": "tanh", "warmup": 0}},
]
ONE_SIGN = ["ghost_grads", {"kind": "pre_act", "coefficient": 0.01}]
REVIVALS = ["none", {"kind": "auxk", "k": 2}, "auxk", *ONE_SIGN]
PAIRS = [(one, other) for one in ARCHITECTURES for other in REVIVALS if one != "abs_topk" or other not in ONE_SIGN]
NAMES = {"ids": lambda option: option if isinstance(option, str) else "-".join(str(v) for v in option.values())}


def make_trainer(sae: SAE, variant: VariantConfig, **options: object) -> TorchTrainer:
    config = TrainConfig(d_sae=64, k=K, dead_after_examples=DEAD_AFTER, steps=50).model_copy(update=options)
    return TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=LR, variance=VARIANCE, seed=5))


def plain_training(sae: SAE, variant: VariantConfig, xs: list[Tensor], dense_loss: Callable) -> dict[str, Tensor]:
    """Dense codes, autograd, torch.optim.Adam; gives the weights."""
    p = {name: value.detach().clone().requires_grad_() for name, value in sae.named_parameters()}
    optimizer = torch.optim.Adam(p.values(), lr=LR)
    silent = torch.zeros(64, dtype=torch.int64, device=xs[0].device)
    for x in xs:
        loss, codes = dense_loss(p, x, variant, K, VARIANCE, silent, DEAD_AFTER)
        silent = torch.where((codes != 0).any(0), 0, silent + len(x))
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            assert p["W_dec"].grad is not None
            p["W_dec"].grad -= (p["W_dec"].grad * p["W_dec"]).sum(1, keepdim=True) * p["W_dec"]
            optimizer.step()
            p["W_dec"] /= p["W_dec"].norm(dim=1, keepdim=True)
            if "threshold" in p:
                p["threshold"].clamp_(min=0)
    return p


@pytest.mark.parametrize(("architecture", "dead_latents"), PAIRS, **NAMES)
def test_fifty_steps_equal_plain_dense_training(
    make_sae: Make, variant: Variant, batches: Batches, dense_loss: Callable, device: str, architecture, dead_latents
):
    method, xs = variant(architecture=architecture, dead_latents=dead_latents), batches(50, device=device)
    sae = make_sae(architecture, device=device)
    expected = plain_training(sae, method, xs, dense_loss)
    trainer = make_trainer(sae, method)
    dead_seen = 0
    for x in xs:
        trainer.step(x)
        dead_seen += int(trainer.dead.sum())
    assert dead_seen > 0
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name].detach(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["adam", {"kind": "adam", "sparse": True}, "sign_sgd"], **NAMES)
@pytest.mark.parametrize(
    ("architecture", "dead_latents"),
    [*PAIRS, *((one, {"kind": "resample", "every": 8}) for one in ARCHITECTURES)],
    **NAMES,
)
def test_a_resumed_training_has_the_bits_of_an_undisturbed_one(
    make_sae: Make, variant: Variant, batches: Batches, architecture, dead_latents, optimizer
):
    method = variant(
        architecture=architecture, dead_latents=dead_latents, optimizer=optimizer, schedule={"warmup": 0.2}
    )
    xs = [x.float() for x in batches(24)]
    whole, first = (make_trainer(make_sae(architecture).float(), method) for _ in range(2))
    for x in xs:
        whole.step(x)
    for x in xs[:11]:
        first.step(x)
    state = first.state_dict()
    first.step(xs[0])  # what was returned must not follow
    second = make_trainer(make_sae(architecture, seed=8).float(), method)
    second.load_state_dict(state)
    for x in xs[11:]:
        second.step(x)
    expected, found = whole.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert all(value.is_contiguous() and value.device.type == "cpu" for value in found.values())


@pytest.mark.parametrize("dead_latents", ["none", "auxk"])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "relu"])
def test_a_latent_dead_by_relu_under_a_frozen_bias_never_changes(
    make_sae: Make, variant: Variant, batches: Batches, architecture: str, dead_latents: str
):
    sae, xs = make_sae(architecture), batches(50)
    everything = torch.cat(xs)
    with torch.no_grad():
        sae.b_enc.zero_()
        sae.b_dec.zero_()
        highest = sae.hidden_pre(everything).amax(0)
    dead = highest <= 0  # under a frozen bias nothing but their own weights could wake them
    assert 0 < int(dead.sum()) < 64
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    trainer = make_trainer(sae, variant(architecture=architecture, dead_latents=dead_latents, frozen="b_dec"))
    for x in xs:
        trainer.step(x)
        assert sae.W_enc.grad is not None
        assert sae.W_dec.grad is not None
        assert sae.b_enc.grad is not None
        assert not sae.W_enc.grad[:, dead].any()
        assert not sae.W_dec.grad[dead].any()
        assert not sae.b_enc.grad[dead].any()
    assert torch.equal(sae.W_enc[:, dead], before["W_enc"][:, dead])
    assert torch.equal(sae.W_dec[dead], before["W_dec"][dead])
    assert torch.equal(sae.b_enc[dead], before["b_enc"][dead])
    assert torch.equal(sae.b_dec, before["b_dec"])
    assert not torch.equal(sae.W_dec, before["W_dec"])


def test_a_resting_unit_row_keeps_its_bits_in_float32(make_sae: Make, variant: Variant, batches: Batches):
    sae = make_sae(d_sae=512).float()
    with torch.no_grad():
        sae.b_enc[5:] = -1e6  # nothing but the first five ever fires
    before = sae.W_dec.detach().clone()
    trainer = make_trainer(sae, variant())
    for x in batches(3):
        trainer.step(x.float())
    assert torch.equal(sae.W_dec[5:], before[5:])


def test_frozen_features_move_the_bias_by_the_rate_each_step(make_sae: Make, variant: Variant):
    # Far from the mean every gradient of b_dec has the mean's sign, and Adam makes steps of lr of it (paper, 6).
    sae = make_sae()
    with torch.no_grad():
        sae.b_dec.zero_()
        sae.b_enc.fill_(-1e6)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    trainer = make_trainer(sae, variant(frozen="features"))
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([50.0, -50, 70, 90, -60, 50, 80], dtype=torch.float64)
    for _ in range(100):
        trainer.step(mean + 0.1 * torch.randn(64, 7, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(sae.b_dec.detach(), 100 * LR * mean.sign(), rtol=0.02, atol=0)
    for name in ("W_enc", "W_dec", "b_enc"):
        assert torch.equal(sae.state_dict()[name], before[name])


@pytest.mark.parametrize("dead_latents", ["none", "auxk", "ghost_grads", "pre_act"])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "matryoshka_batch_topk", "relu", "jumprelu"])
def test_a_frozen_decoder_keeps_its_bits_and_all_else_moves(
    make_sae: Make, variant: Variant, batches: Batches, architecture: str, dead_latents: str
):
    method = variant(architecture=architecture, dead_latents=dead_latents, frozen="decoder")
    sae = make_sae(method.trained_architecture)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    trainer = make_trainer(sae, method)
    for x in batches(20):
        trainer.step(x)
    moved = {name for name, value in sae.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == before.keys() - {"W_dec"}


def test_the_gradients_of_others_do_not_know_that_the_decoder_is_frozen(
    make_sae: Make, variant: Variant, batches: Batches
):
    (x,) = batches(1)
    frozen, free = (make_trainer(make_sae(), variant(frozen=parameters)) for parameters in ("decoder", "none"))
    for trainer in (frozen, free):
        trainer.step(x)
    for name in ("W_enc", "b_enc", "b_dec"):
        assert torch.equal(frozen.sae.state_dict()[name], free.sae.state_dict()[name])


@pytest.mark.parametrize("project", [True, False])
def test_decoder_rows_keep_unit_norm_and_their_gradient_is_tangent_if_asked(
    make_sae: Make, variant: Variant, batches: Batches, project: bool
):
    sae = make_sae()
    trainer = make_trainer(sae, variant(dead_latents="auxk", project_decoder=project))
    along = 0.0
    for x in batches(20):
        before = sae.W_dec.detach().clone()
        trainer.step(x)
        assert sae.W_dec.grad is not None
        along = max(along, float((sae.W_dec.grad * before).sum(1).abs().max()))
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64, dtype=torch.float64))
    assert (along < 1e-12) == project
