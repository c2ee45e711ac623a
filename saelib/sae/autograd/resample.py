"""Dead latents that start again where reconstruction is worst."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from saelib.sae.autograd.optimizer import OF_NO_LATENT
from saelib.sae.model import SAE

ENCODER_SCALE = 0.2
"""Norm of a new encoder row, relative to the mean norm of the living ones."""


@torch.no_grad()
def resample(
    sae: SAE, x: Tensor, losses: Tensor, dead: Tensor, moments: Mapping[str, Tensor], generator: torch.Generator
) -> Tensor:
    """Point dead latents at tokens drawn with probability ~ loss^2 (Bricken et al. 2023), and forget their moments.

    Decoder rows become unit vectors along x - b_dec, encoder rows the same times 0.2 of the mean norm of the living
    ones, encoder biases 0. A token is drawn once: where more latents are dead than tokens have a loss, the others
    wait for the next time.

    Args:
        sae: Changed in place.
        x: [tokens, d_in]
        losses: Squared errors [tokens].
        dead: Boolean [d_sae].
        moments: Of the optimizer, `m.W_enc` and so on; changed in place.
        generator: On the CPU.

    Returns:
        The latents that start again: [some].
    """
    weights = losses.double().square().cpu()
    count = min(int(dead.sum()), int((weights > 0).sum()))
    latents = dead.nonzero().squeeze(1)[:count]
    if count == 0:
        return latents
    tokens = torch.multinomial(weights, count, replacement=False, generator=generator).to(x.device)
    directions = F.normalize(x[tokens] - sae.b_dec, dim=1)
    norms = torch.linalg.vector_norm(sae.W_enc, dim=0)
    alive = norms if bool(dead.all()) else norms[~dead]
    sae.W_dec[latents] = directions
    sae.W_enc[:, latents] = (ENCODER_SCALE * alive.mean() * directions).T
    sae.b_enc[latents] = 0
    for name, moment in moments.items():
        if name.endswith("W_enc"):
            moment[:, latents] = 0
        elif not name.endswith(OF_NO_LATENT):
            moment[latents] = 0
    return latents
