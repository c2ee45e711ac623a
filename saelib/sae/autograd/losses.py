"""The losses that training minimizes in addition to an architecture's own penalty."""

import torch
from torch import Tensor

from saelib.sae.autograd.dense import Decode, DensePreActivations, Recomputed, relu
from saelib.sae.model import SAE

HIGHEST_EXPONENT = 10.0
"""Pre-activations above this do not make a ghost's exp any larger, nor pass a gradient: e^89 is infinite in float32."""


def reconstruction_loss(x: Tensor, x_hat: Tensor, variance: float) -> Tensor:
    """Squared error, summed over dimensions, averaged over tokens, relative to the data's total variance."""
    return (x - x_hat).square().sum() / (len(x) * variance)


def auxk_loss(
    sae: SAE, x: Tensor, x_hat: Tensor, hidden_pre: Tensor, dead: Tensor, k_aux: int, among: Tensor | None = None
) -> Tensor:
    """Error of the dead latents' fit to what the living ones left over (Gao et al. 2024, appendix A.2).

    The residual x - x_hat is a constant here, fitted by the `k_aux` largest dead latents of each token after the
    ReLU (for `abs_topk`, of largest absolute value, with their signs) and without b_dec, relative to the residual's
    variance over the batch. The gradient reaches the selected dead latents (encoder and decoder) and, through the
    encoder's input, b_dec. No gradient where nothing is dead or left over.

    Args:
        sae: The SAE that made `x_hat`.
        x: [tokens, d_in]
        x_hat: [tokens, d_in]
        hidden_pre: [tokens, d_sae], constants.
        dead: [d_sae], boolean.
        k_aux: Dead latents used for a token; all of them where fewer are dead.
        among: Latents [some], all dead ones among them, which alone are looked at. None: they are found here.
    """
    residual = (x - x_hat).detach()
    # A latent that is positive nowhere adds nothing, but its matrix products would cost as much.
    latents = _candidates(dead & (sae.sizes(hidden_pre).amax(0) > 0)) if among is None else among
    if len(latents) == 0:
        return x.new_zeros(())
    pre, W_dec = _pre_activations_of(latents, dead, sae, x, hidden_pre, alive=0.0)
    bar = _bar(sae.sizes(pre.detach()), k_aux)

    def selected(pre: Tensor) -> Tensor:
        return torch.where(sae.sizes(pre) > bar, pre, 0)

    error = (residual - Decode.apply(selected, W_dec, pre)).square().sum()
    scale = (residual - residual.mean(0)).square().sum()
    return error * torch.where(scale > 0, scale.reciprocal(), 0)


def ghost_loss(
    sae: SAE, x: Tensor, x_hat: Tensor, hidden_pre: Tensor, dead: Tensor, mse: Tensor, among: Tensor | None = None
) -> Tensor:
    """Error of the dead latents' fit to the residual, through exp instead of the ReLU (Jermyn and Templeton 2024).

    Their reconstruction, without b_dec, is scaled for each token to half the residual's norm, and the loss to the
    value of `mse`; both scales and the residual are constants. No gradient where nothing is dead or left over.

    Args:
        sae: The SAE that made `x_hat`.
        x: [tokens, d_in]
        x_hat: [tokens, d_in]
        hidden_pre: [tokens, d_sae], constants.
        dead: [d_sae], boolean.
        mse: The reconstruction loss, [].
        among: See `auxk_loss`.
    """
    residual = (x - x_hat).detach()
    latents = _candidates(dead) if among is None else among
    if len(latents) == 0:
        return x.new_zeros(())
    pre, W_dec = _pre_activations_of(latents, dead, sae, x, hidden_pre, alive=-torch.inf)

    def ghosts(pre: Tensor) -> Tensor:
        return pre.clamp(max=HIGHEST_EXPONENT).exp()

    fit = Decode.apply(ghosts, W_dec, pre)
    norms = torch.linalg.vector_norm(fit.detach(), dim=1, keepdim=True)
    half = torch.linalg.vector_norm(residual, dim=1, keepdim=True) / 2
    error = (residual - fit * torch.where(norms > 0, half / norms, 0)).square().sum()
    scale = torch.where(error > 0, mse / error, 0).detach()
    return error * scale


def pre_act_loss(sae: SAE, x: Tensor, hidden_pre: Tensor) -> Tensor:
    """sum_i ReLU(threshold_i - pre_i) ||d_i||, averaged over tokens (Anthropic, January 2025).

    The gradient raises every pre-activation that is below its threshold, JumpReLU's or 0, and lowers JumpReLU's
    thresholds.

    Args:
        sae: The SAE.
        x: [tokens, d_in]
        hidden_pre: [tokens, d_sae], constants.
    """
    pre = DensePreActivations.apply(hidden_pre, x, sae.W_enc, sae.b_enc, sae.b_dec)
    threshold = sae.threshold if sae.architecture == "jumprelu" else torch.zeros_like(sae.b_enc)

    def below(pre: Tensor, threshold: Tensor, norms: Tensor) -> Tensor:
        return (relu(threshold - pre) * norms).sum()

    return Recomputed.apply(below, pre, threshold, torch.linalg.vector_norm(sae.W_dec, dim=1)) / len(x)


def _candidates(dead: Tensor) -> Tensor:
    """Latents to look at: [some]. On a device all of them, dead or not, as to count the dead would wait for it."""
    if dead.device.type == "cpu":
        return dead.nonzero().squeeze(1)
    return torch.arange(len(dead), device=dead.device)


def _pre_activations_of(
    latents: Tensor, dead: Tensor, sae: SAE, x: Tensor, hidden_pre: Tensor, alive: float
) -> tuple[Tensor, Tensor]:
    """Pre-activations [tokens, some] of some latents, with gradients, and their decoder rows [some, d_in].

    Latents that are not dead are `alive` everywhere: 0 is never selected, and the exp of -infinity is 0.
    """
    # Through the transpose: in memory, W_enc lies latent by latent.
    W_enc = sae.W_enc.T.index_select(0, latents).T
    values = hidden_pre.index_select(1, latents).masked_fill_(~dead[latents], alive)
    pre = DensePreActivations.apply(values, x, W_enc, sae.b_enc[latents], sae.b_dec)
    return pre, sae.W_dec.index_select(0, latents)


def _bar(values: Tensor, k: int) -> Tensor:
    """The bar that exactly the k largest positive values of a row exceed: [rows, n] -> [rows, 1]."""
    if values.shape[1] <= k:
        return values.new_zeros(())
    return values.topk(k + 1, dim=1, sorted=False).values.amin(1, keepdim=True).clamp(min=0)
