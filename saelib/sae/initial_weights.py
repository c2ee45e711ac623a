"""Weights before training."""

import torch
import torch.nn.functional as F
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.sae.aligned import align
from saelib.sae.autograd.forward import batch_topk_forward
from saelib.sae.model import SAE, WITH_K
from saelib.sae.products import product

BUFFER_VALUES = 2**24
"""Pre-activations held at a time: 64 MB."""


def initial_sae(
    d_in: int,
    config: TrainConfig,
    variant: VariantConfig,
    *,
    seed: int,
    b_dec: Tensor | None = None,
    subspace: Tensor | None = None,
    tokens: Tensor | None = None,
) -> SAE:
    """Unit rows in random directions, encoder biases 0, in float32 on the CPU (paper, appendix B.1).

    Args:
        d_in: Width of what the SAE reads.
        config: `d_sae` and `k`.
        variant: `architecture`, `init` and `aligned`; `set_firing_rate` and `calibrate` do what needs a batch.
        seed: Of the directions.
        b_dec: [d_in], such as a center of the activations, which is copied; none: 0.
        subspace: [d_in, r], columns whose random combinations all directions are: orthonormal ones span a subspace
            (Wang 2025), those of `whitening_directions` whiten; none: no limit.
        tokens: [d_sae, d_in], what the SAE reads, for `init.rows: datapoint`.

    Raises:
        UserError: if the rank of a bypass is larger than `d_in`.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder = _directions(config.d_sae, d_in, variant, subspace, generator)
    if variant.init.rows.kind == "datapoint":
        assert tokens is not None
        of_tokens = F.normalize(tokens.float() if b_dec is None else tokens.float() - b_dec.float(), dim=1)
        encoder = F.normalize(torch.lerp(encoder, of_tokens, variant.init.rows.blend), dim=1)
    # A tied start is a copy: shared memory would tie the two for good.
    decoder = encoder.clone() if variant.init.tied else _directions(config.d_sae, d_in, variant, subspace, generator)
    tensors = {
        "W_enc": encoder.T,
        "W_dec": decoder,
        "b_enc": torch.zeros(config.d_sae),
        "b_dec": torch.zeros(d_in) if b_dec is None else b_dec.float().clone(),
    }
    if variant.bypass is not None:
        tensors |= _bypass(d_in, variant.bypass.rank, generator)
    if variant.aligned:
        align(tensors["W_enc"], tensors["W_dec"])
    if variant.architecture.kind == "jumprelu":
        tensors["threshold"] = torch.full((config.d_sae,), variant.architecture.initial_threshold)
    architecture = variant.trained_architecture
    return SAE(architecture, tensors, config.k if architecture in WITH_K else None)


def _bypass(d_in: int, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A bypass that adds nothing yet: Gaussian columns of norm about 1, and rows of 0."""
    if rank > d_in:
        raise UserError(f"bypass.rank = {rank} is more than the {d_in} dimensions that the SAE reads; lower it")
    down = torch.randn(d_in, rank, generator=generator) / d_in**0.5
    return {"bypass_in": down, "bypass_out": torch.zeros(rank, d_in)}


def _directions(
    d_sae: int, d_in: int, variant: VariantConfig, subspace: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Unit rows [d_sae, d_in]."""
    shape = (d_sae, d_in if subspace is None else subspace.shape[1])
    if variant.init.rows.kind == "uniform":
        rows = 2 * torch.rand(shape, generator=generator) - 1
    else:
        rows = torch.randn(shape, generator=generator)
    return F.normalize(rows if subspace is None else rows @ subspace.float().T, dim=1)


@torch.no_grad()
def set_firing_rate(sae: SAE, x: Tensor, rate: float) -> None:
    """Sets each encoder bias so that its latent is positive on a share `rate` of the tokens (Conerly et al. 2025).

    The bias puts 0 midway between the two pre-activations around that share.

    Args:
        sae: Changed in place.
        x: What the SAE reads, [tokens, d_in], on the SAE's device.
        rate: In (0, 1).

    Raises:
        UserError: where `x` has too few tokens for a share that small, or that large.
    """
    positive = round(rate * len(x))
    if not 0 < positive < len(x):
        raise UserError(f"init.firing_rate = {rate} cannot be set on {len(x)} tokens: it is none or all of them")
    centered = x - sae.b_dec
    for latents in torch.arange(sae.d_sae, device=x.device).split(max(1, BUFFER_VALUES // len(x))):
        hidden_pre = product(centered, sae.W_enc[:, latents])
        highest = hidden_pre.topk(positive + 1, dim=0).values
        sae.b_enc[latents] = -(highest[-2] + highest[-1]) / 2


@torch.no_grad()
def calibrate(sae: SAE, x: Tensor) -> None:
    """Scales the encoder so that the SAE's reconstruction of `x` [tokens, d_in] has the least squared error.

    No selection changes. Nothing happens if no latent fires, or if the reconstruction points away from the tokens.
    """
    x_hat = batch_topk_forward(sae, x, "float32").x_hat if sae.architecture == "batch_topk" else sae(x)
    fit, wanted = x_hat - sae.b_dec, x - sae.b_dec
    scale = (fit * wanted).sum() / fit.square().sum()
    if scale > 0:
        sae.W_enc.mul_(scale)
        sae.b_enc.mul_(scale)
