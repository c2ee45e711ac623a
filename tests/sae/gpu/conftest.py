"""SAEs, settings and batches of sizes for Triton's interpreter, which runs the kernels on a machine without a GPU."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.initial_weights import initial_sae
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported

D_IN, D_SAE, K, TOKENS = 11, 13, 3, 9
"""Odd widths: nothing is a multiple of a vector. The interpreter's time grows with D_SAE and TOKENS."""
VARIANCE = 7.0


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def start(device: str) -> Callable[..., SAE]:
    """A float32 SAE with biases, of which every tenth latent is rarely positive."""

    def make(architecture: str = "topk", center: float = 0.0, d_sae: int = D_SAE, k: int = K, seed: int = 0) -> SAE:
        variant = VariantConfig.model_validate({"architecture": architecture})
        generator = torch.Generator().manual_seed(seed)
        sae = initial_sae(D_IN, TrainConfig(d_sae=d_sae, k=k), variant, seed=seed)
        with torch.no_grad():
            sae.W_enc += 0.1 * torch.randn(sae.W_enc.shape, generator=generator)
            sae.b_enc += 0.1 * torch.randn(sae.b_enc.shape, generator=generator)
            sae.b_enc[::10] -= 3
            sae.b_dec += center
        return sae.to(device)

    return make


@pytest.fixture
def settings() -> Callable[..., list[TrainerSettings]]:
    """Settings for some learning rates, of a variant written as in the config file."""

    def make(rates: tuple[float, ...] = (1e-3,), d_sae: int = D_SAE, k: int = K, **options: Any):
        config = TrainConfig(d_sae=d_sae, k=k, steps=20, dead_after_examples=2 * TOKENS)
        variant = VariantConfig.model_validate(options)
        return [TrainerSettings(config, variant, learning_rate=rate, variance=VARIANCE) for rate in rates]

    return make


@pytest.fixture
def batches(device: str) -> Callable[..., list[Tensor]]:
    def make(steps: int, mean: float = 1.0, tokens: int = TOKENS) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        return list((mean + torch.randn(steps, tokens, D_IN, generator=generator)).to(device))

    return make
