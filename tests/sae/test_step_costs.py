"""A step needs no dense tensors for its backward pass, does not wait, and can do with half of the bits."""

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
    {"kind": "relu", "l1": 0.02},
    {"kind": "jumprelu", "initial_threshold": 0.3, "bandwidth": 0.2},
]
NAMES = {"ids": lambda option: option if isinstance(option, str) else "-".join(str(v) for v in option.values())}


def make_trainer(sae: SAE, variant: VariantConfig, **options: object) -> TorchTrainer:
    config = TrainConfig(d_sae=64, k=K, dead_after_examples=DEAD_AFTER, steps=50).model_copy(update=options)
    return TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=LR, variance=VARIANCE, seed=5))


@pytest.mark.parametrize("dead_latents", ["none", "auxk", "ghost_grads"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, **NAMES)
def test_nothing_dense_is_kept_for_the_backward_pass_but_the_pre_activations(
    make_sae: Make, variant: Variant, monkeypatch: pytest.MonkeyPatch, architecture, dead_latents
):
    tokens = 24  # a size that nothing else has
    kept: set[int] = set()
    kept_before_backward: list[int] = []
    sae = make_sae(architecture)
    trainer = make_trainer(sae, variant(architecture=architecture, dead_latents=dead_latents))
    x = 3 + torch.randn(tokens, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(4):
        trainer.step(x)
    assert trainer.dead.any()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 2 and len(tensor) == tokens and tensor.shape[1] > 7:
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    backward = Tensor.backward

    def count_and_go_back(loss: Tensor) -> None:
        kept_before_backward.append(len(kept))
        backward(loss)

    monkeypatch.setattr(Tensor, "backward", count_and_go_back)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.step(x)
    # Dense architectures keep the pre-activations; a loss for dead latents may keep theirs.
    least = 0 if architecture in ("topk", "batch_topk") else 1
    most = least if dead_latents == "none" else least + 1
    assert least <= kept_before_backward[0] <= most


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adam", {"kind": "adam", "sparse": True}, "sign_sgd"], **NAMES)
@pytest.mark.parametrize("dead_latents", ["none", "auxk", "ghost_grads"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, **NAMES)
def test_a_step_waits_for_nothing_from_its_device(
    make_sae: Make, variant: Variant, architecture, dead_latents: str, optimizer, precision: str
):
    # The meta device has shapes and no values: to read one, or to let it decide on a shape, is an error.
    method = variant(architecture=architecture, dead_latents=dead_latents, optimizer=optimizer, clip=1.0)
    trainer = make_trainer(make_sae(architecture).float().to("meta"), method, precision=precision)
    for _ in range(5):  # latents are dead from the fourth on
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
