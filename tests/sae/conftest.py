"""SAEs and batches to train on, a loss written the plain way, and the saved SAEs of `tests.saved_saes`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import reference
from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.initial_weights import initial_sae
from saelib.sae.model import SAE
from tests.saved_saes import fit, make, rows, run

__all__ = ["_one_thread", "batches", "dense_loss", "fit", "make", "make_sae", "rows", "run", "variant"]


@pytest.fixture(autouse=True)
def _one_thread():
    """Bits are promised for one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def variant() -> Callable[..., VariantConfig]:
    """A variant from its options, written as in the config file."""
    return lambda **options: VariantConfig.model_validate(options)


@pytest.fixture
def make_sae(variant: Callable[..., VariantConfig]) -> Callable[..., SAE]:
    """A float64 SAE whose encoder is no longer tied to its decoder and whose biases are not zero."""

    def make(
        architecture: Any = "topk", d_in: int = 7, d_sae: int = 64, k: int = 2, seed: int = 0, device: str = "cpu"
    ) -> SAE:
        config = TrainConfig(d_sae=d_sae, k=k)
        sae = initial_sae(d_in, config, variant(architecture=architecture), seed=seed).double()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in (sae.W_enc, sae.b_enc, sae.b_dec):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)  # unit in float64 too
        return sae.to(device)

    return make


@pytest.fixture
def batches() -> Callable[..., list[Tensor]]:
    """Batches of 16 tokens whose mean of several sigmas leaves some latents dead."""

    def make(steps: int, d_in: int = 7, mean: float = 3.0, device: str = "cpu") -> list[Tensor]:
        generator = torch.Generator().manual_seed(9)
        tokens = mean + torch.randn(steps, 16, d_in, generator=generator, dtype=torch.float64)
        return list(tokens.to(device))

    return make


@pytest.fixture
def dense_loss() -> Callable[..., tuple[Tensor, Tensor]]:
    return reference.dense_loss
