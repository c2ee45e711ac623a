"""Fifty steps of every method against a plain dense training, and the laws that every step keeps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.model import SAE
from saelib.sae.torch_trainer import TorchTrainer

Make = Callable[..., SAE]
Variant = Callable[..., VariantConfig]
Batches = Callable[..., list[Tensor]]
K, DEAD_AFTER, LR, VARIANCE = 2, 64, 1e-2, 11.0
ARCHITECTURES = [
    "topk",
    "batch_topk",
    {"kind": "relu", "l1": 0.02},
    {"kind": "jumprelu", "initial_threshold": 0.3, "bandwidth": 0.2},
]
REVIVALS = ["none", {"kind": "auxk", "k": 2}, "auxk", "ghost"]
NAMES = {"ids": lambda option: option if isinstance(option, str) else "-".join(str(v) for v in option.values())}


def make_trainer(sae: SAE, variant: VariantConfig, **options: object) -> TorchTrainer:
    config = TrainConfig(d_sae=64, k=K, dead_after_examples=DEAD_AFTER, steps=50).model_copy(update=options)
    return TorchTrainer(sae, config, variant, learning_rate=LR, variance=VARIANCE, seed=5)


def plain_training(sae: SAE, variant: VariantConfig, xs: list[Tensor], dense_loss: Callable) -> dict[str, Tensor]:
    """Dense codes, autograd, torch.optim.Adam; gives the weights."""
    p = {name: value.detach().clone().requires_grad_() for name, value in sae.named_parameters()}
    optimizer = torch.optim.Adam(p.values(), lr=LR)
    silent = torch.zeros(64, dtype=torch.int64, device=xs[0].device)
    for x in xs:
        loss, codes = dense_loss(p, x, variant, K, VARIANCE, silent, DEAD_AFTER)
        silent = torch.where((codes > 0).any(0), 0, silent + len(x))
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


@pytest.mark.parametrize("revival", REVIVALS, **NAMES)
@pytest.mark.parametrize("architecture", ARCHITECTURES, **NAMES)
def test_fifty_steps_equal_plain_dense_training(
    make_sae: Make, variant: Variant, batches: Batches, dense_loss: Callable, device: str, architecture, revival
):
    method, xs = variant(architecture=architecture, revival=revival), batches(50, device=device)
    sae = make_sae(architecture, device=device)
    expected = plain_training(sae, method, xs, dense_loss)
    trainer = make_trainer(sae, method)
    flagged = 0
    for x in xs:
        trainer.step(x)
        flagged += int(trainer.flagged.sum())
    assert flagged > 0
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name].detach(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["adam", {"kind": "adam", "sparse": True}, "sign_sgd"], **NAMES)
@pytest.mark.parametrize("revival", [*REVIVALS, {"kind": "resample", "every": 8}], **NAMES)
@pytest.mark.parametrize("architecture", ARCHITECTURES, **NAMES)
def test_a_resumed_training_has_the_bits_of_an_undisturbed_one(
    make_sae: Make, variant: Variant, batches: Batches, architecture, revival, optimizer
):
    method = variant(architecture=architecture, revival=revival, optimizer=optimizer, schedule={"warmup": 0.2})
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


@pytest.mark.parametrize("revival", ["none", "auxk"])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "relu"])
def test_a_latent_dead_by_relu_under_a_frozen_bias_never_changes(
    make_sae: Make, variant: Variant, batches: Batches, architecture: str, revival: str
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
    trainer = make_trainer(sae, variant(architecture=architecture, revival=revival, frozen="b_dec"))
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


@pytest.mark.parametrize("project", [True, False])
def test_decoder_rows_keep_unit_norm_and_their_gradient_is_tangent_if_asked(
    make_sae: Make, variant: Variant, batches: Batches, project: bool
):
    sae = make_sae()
    trainer = make_trainer(sae, variant(revival="auxk", project_decoder=project))
    along = 0.0
    for x in batches(20):
        before = sae.W_dec.detach().clone()
        trainer.step(x)
        assert sae.W_dec.grad is not None
        along = max(along, float((sae.W_dec.grad * before).sum(1).abs().max()))
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64, dtype=torch.float64))
    assert (along < 1e-12) == project


def test_counters_count_examples_and_a_selected_zero_is_not_firing(make_sae: Make, variant: Variant):
    sae = make_sae(k=64)  # every latent is selected for every token
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.fill_(1.0)
    trainer = make_trainer(sae, variant())
    for _ in range(5):  # 16 examples a step, flagged at 64
        with torch.no_grad():
            sae.b_enc[4] = 0.0
        trainer.step(torch.zeros(16, 7, dtype=torch.float64))
    assert trainer.examples == 80
    assert trainer.silent_for.nonzero().flatten().tolist() == [4]
    assert trainer.silent_for[4] == trainer.negative_for[4] == 80
    assert trainer.flagged.nonzero().flatten().tolist() == [4]


def test_a_positive_latent_that_is_never_selected_is_silent_but_not_negative(make_sae: Make, variant: Variant):
    sae = make_sae()
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.copy_(torch.arange(64.0) - 10)
    trainer = make_trainer(sae, variant())
    trainer.step(torch.zeros(16, 7, dtype=torch.float64))
    assert (trainer.silent_for == 0).nonzero().flatten().tolist() == [62, 63]
    assert (trainer.negative_for == 0).nonzero().flatten().tolist() == list(range(11, 64))


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


@pytest.mark.parametrize("revival", ["none", "auxk", "ghost"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, **NAMES)
def test_nothing_dense_is_kept_for_the_backward_pass_but_the_pre_activations(
    make_sae: Make, variant: Variant, monkeypatch: pytest.MonkeyPatch, architecture, revival
):
    tokens, kept, counted = 24, [], []  # a size that nothing else has
    sae = make_sae(architecture)
    trainer = make_trainer(sae, variant(architecture=architecture, revival=revival))
    x = 3 + torch.randn(tokens, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(4):
        trainer.step(x)
    assert trainer.flagged.any()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 2 and len(tensor) == tokens and tensor.shape[1] > 7:
            kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    backward = Tensor.backward
    monkeypatch.setattr(Tensor, "backward", lambda loss: (counted.append(len(set(kept))), backward(loss)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.step(x)
    # The pre-activations, which selected entries do without, and those of the dead (AuxK: that are ever positive).
    assert 0 <= counted[0] - (architecture not in ("topk", "batch_topk")) <= (revival != "none")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adam", {"kind": "adam", "sparse": True}, "sign_sgd"], **NAMES)
@pytest.mark.parametrize("revival", ["none", "auxk", "ghost"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, **NAMES)
def test_a_step_waits_for_nothing_from_its_device(
    make_sae: Make, variant: Variant, architecture, revival: str, optimizer, precision: str
):
    # The meta device has shapes and no values: to read one, or to let it decide on a shape, is an error.
    method = variant(architecture=architecture, revival=revival, optimizer=optimizer, clip=1.0)
    trainer = make_trainer(make_sae(architecture).float().to("meta"), method, precision=precision)
    for _ in range(5):  # latents are flagged from the fourth on
        trainer.step(torch.empty(16, 7, device="meta"))
    assert trainer.steps_done == 5


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_bfloat16_products_change_a_step_by_their_rounding(
    make_sae: Make, variant: Variant, batches: Batches, architecture: str
):
    x, method = batches(1)[0].float(), variant(architecture=architecture, optimizer="sign_sgd")
    found = []
    for precision in ("float32", "bfloat16"):
        sae = make_sae(architecture).float()
        make_trainer(sae, method, precision=precision).step(x)
        assert sae.W_enc.grad is not None
        assert sae.W_enc.grad.dtype == torch.float32
        found.append(sae.W_enc.grad)
    assert 1e-5 < ((found[1] - found[0]).norm() / found[0].norm()).item() < 0.3


def test_thresholds_stop_at_zero(make_sae: Make, variant: Variant, batches: Batches):
    # The penalty on too low an L0 pulls thresholds down, the faster the higher the rate.
    architecture = {"kind": "jumprelu", "initial_threshold": 0.02, "bandwidth": 0.2, "target_l0": 60}
    sae = make_sae(architecture)
    trainer = make_trainer(sae, variant(architecture=architecture, optimizer="sign_sgd"))
    for x in batches(5, mean=0.0):
        trainer.step(x)
    assert sae.threshold.amin() == 0
