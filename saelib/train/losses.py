"""What training minimises."""

import torch
from torch import Tensor

from saelib.train.model import TopKSAE


def reconstruction_loss(x: Tensor, x_hat: Tensor, variance: float) -> Tensor:
    """Squared error, summed over dimensions, averaged over tokens, relative to the data's total variance."""
    return (x - x_hat).square().sum(1).mean() / variance


def auxk_loss(sae: TopKSAE, x: Tensor, x_hat: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    """How badly the dead latents fit what the living ones left over (Gao et al. 2024, appendix A.2).

    The residual x - x_hat is a constant here, fitted by the `k_aux` largest dead latents of each token after the
    ReLU and without b_dec, relative to the residual's variance over the batch. The gradient reaches the selected
    dead latents (encoder and decoder) and, through the encoder's input, b_dec. 0 where nothing is dead or left over.

    Args:
        sae: The SAE that made `x_hat`.
        x: [tokens, d_in]
        x_hat: [tokens, d_in]
        dead: [d_sae], boolean.
        k_aux: Dead latents used for a token; all of them where fewer are dead.
    """
    latents = dead.nonzero().squeeze(1)  # waits for the device, but the work below shrinks to what is dead
    if latents.numel() == 0:
        return x.new_zeros(())
    residual = (x - x_hat).detach()
    values, chosen = sae.hidden_pre(x, latents).relu().topk(min(k_aux, latents.numel()), dim=1, sorted=False)
    codes = x.new_zeros(x.shape[0], latents.numel()).scatter(1, chosen, values)
    error = (residual - codes @ sae.W_dec[latents]).square().sum()
    scale = (residual - residual.mean(0)).square().sum()
    return error * torch.where(scale > 0, scale.reciprocal(), 0)
