"""SAEs and batches to train on, a loss written the plain way, and the saved SAEs of `tests.saved_saes`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.initial_weights import initial_sae
from saelib.sae.model import SAE
from tests.saved_saes import fit, make, rows

__all__ = ["_one_thread", "batches", "dense_loss", "device", "fit", "make", "make_sae", "rows", "variant"]


@pytest.fixture(autouse=True)
def _one_thread():
    """Bits are promised for one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


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
    return _dense_loss


def _dense_loss(
    p: dict[str, Tensor], x: Tensor, variant: VariantConfig, k: int, variance: float, silent: Tensor, dead_after: int
) -> tuple[Tensor, Tensor]:
    """The loss written the plain way, all latents and all by autograd; and the codes.

    `silent`: examples since each latent last fired, before this batch.
    """
    architecture, dead_latents = variant.architecture, variant.dead_latents
    pre = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    penalty = 0.0
    if architecture.kind == "topk":
        z = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0) * pre.relu()
    elif architecture.kind == "batch_topk":
        bar = pre.flatten().sort().values[-k * len(x)]
        z = torch.where(pre >= bar, pre, 0).relu()
    elif architecture.kind == "relu":
        z = pre.relu()
        penalty = architecture.l1 * (z * p["W_dec"].norm(dim=1)).sum(1).mean()
    else:
        theta, width = p["threshold"], architecture.bandwidth
        near = ((pre - theta).abs() < width / 2).double().detach()
        moving = theta - theta.detach()  # 0, but for its gradient: the published pseudo-derivatives
        z = pre * (pre > theta).double() - (theta / width).detach() * near * moving
        l0 = ((pre > theta).double() - near / width * moving).sum(1).mean()
        penalty = architecture.coefficient * (l0 / (architecture.target_l0 or k) - 1) ** 2
    x_hat = z @ p["W_dec"] + p["b_dec"]
    mse = ((x - x_hat) ** 2).sum(1).mean() / variance
    age = torch.where((z > 0).any(0), 0, silent + len(x))
    dead = (age >= dead_after).nonzero().flatten()
    e = (x - x_hat).detach()
    extra = torch.zeros((), dtype=x.dtype)
    if dead_latents.kind == "auxk" and len(dead):
        z_dead = pre[:, dead].relu()
        k_aux = min(dead_latents.k or x.shape[1] // 2, len(dead))
        kept = torch.zeros_like(z_dead).scatter(1, z_dead.topk(k_aux).indices, 1.0)
        error = ((e - (z_dead * kept) @ p["W_dec"][dead]) ** 2).sum()
        extra = dead_latents.auxk_coefficient * error / ((e - e.mean(0)) ** 2).sum()
    elif dead_latents.kind == "ghost_grads" and len(dead):
        fit = pre[:, dead].exp() @ p["W_dec"][dead]
        fit = fit * (e.norm(dim=1, keepdim=True) / 2 / fit.norm(dim=1, keepdim=True)).detach()
        error = ((e - fit) ** 2).sum(1).mean()
        extra = error * (mse / error).detach()
    return mse + penalty + extra, z.detach()
