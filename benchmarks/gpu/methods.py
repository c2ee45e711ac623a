"""The ways to train that are checked, and a trainer for each."""

from collections.abc import Mapping
from typing import Any

import torch

from saelib.config import TrainConfig, VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.initial_weights import initial_sae
from saelib.sae.trainer import TrainerSettings

ARCHITECTURES: Mapping[str, Any] = {
    "topk": "topk",
    "batch_topk": "batch_topk",
    "relu": "relu",
    "jumprelu": {"kind": "jumprelu", "initial_threshold": 0.3, "bandwidth": 0.2},
}
DEAD_LATENTS: Mapping[str, Any] = {
    "none": "none",
    "auxk": "auxk",
    "ghost_grads": "ghost_grads",
    "resample": {"kind": "resample", "every": 4, "until": 1000},
}
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "topk, sparse Adam": {"optimizer": {"kind": "adam", "sparse": True}},
    "topk, SignSGD": {"optimizer": "sign_sgd"},
    "topk, auxk, clipped": {"dead_latents": "auxk", "clip": 0.1},
    "topk, b_dec frozen": {"frozen": "b_dec"},
    "topk, features frozen": {"frozen": "features"},
    "topk, gradient not projected": {"project_decoder": False},
}


def methods() -> dict[str, VariantConfig]:
    """Every architecture with every treatment of dead latents, and other options with TopK."""
    crossed = {
        architecture if dead == "none" else f"{architecture}, {dead}": {"architecture": how, "dead_latents": treatment}
        for architecture, how in ARCHITECTURES.items()
        for dead, treatment in DEAD_LATENTS.items()
    }
    return {name: VariantConfig.model_validate(options) for name, options in (crossed | dict(OTHERS)).items()}


def make_trainer(
    variant: VariantConfig, *, d_in: int, d_sae: int, k: int, batch_size: int, device: str, dtype: torch.dtype
) -> TorchTrainer:
    """A trainer whose latents count as dead after two batches, and a quarter of which seldom fire at first."""
    shape = {"d_sae": d_sae, "k": k, "batch_size": batch_size, "steps": 1000}
    config = TrainConfig.model_validate(shape | {"dead_after_examples": 2 * batch_size})
    sae = initial_sae(d_in, config, variant, seed=0)
    with torch.no_grad():
        sae.b_enc[: d_sae // 4] -= 3
    sae = sae.to(device, dtype)
    return TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=1e-3, variance=float(d_in)))
