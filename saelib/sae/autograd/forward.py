"""The forward pass in training: reconstructions that gradients flow through, and the latents that took part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from saelib.config.sae_architectures import JumpReLU as JumpReLUConfig
from saelib.config.sae_architectures import ReLU as ReLUConfig
from saelib.sae.autograd.dense import Decode, DensePreActivations, JumpReLU, Recomputed, Step, relu
from saelib.sae.autograd.sparse import DecodeSelected, Entries, SelectedPreActivations
from saelib.sae.model import SAE
from saelib.sae.products import Precision, encoder_product, largest

CPU_ROWS = 512
"""Tokens whose pre-activations a CPU makes and looks through at a time, while they are in its cache."""


@dataclass(frozen=True)
class Forward:
    """One batch, encoded and decoded."""

    x_hat: Tensor
    """[tokens, d_in]"""
    fired: Tensor
    """Boolean [d_sae]; latents with a code other than 0 for some token."""
    positive: Tensor
    """Boolean [d_sae]; latents with a pre-activation above 0 for some token, or of either sign for `abs_topk`."""
    hidden_pre: Tensor | None
    """[tokens, d_sae], constants; None where nobody asked."""
    penalty: Tensor | float = 0.0
    """The architecture's own term of the loss."""
    inner: Sequence[Tensor] = ()
    """Reconstructions by nested SAEs, smaller than the whole; each [tokens, d_in]."""
    smallest: Tensor | None = None
    """`batch_topk` alone: the smallest selected value of the batch, at least 0."""


def topk_forward(sae: SAE, x: Tensor, precision: Precision, keep: bool, k: int | None = None) -> Forward:
    """The k largest positive pre-activations of each token, or for `abs_topk` the k of largest absolute value.

    `keep` says whether `hidden_pre` is wanted; without `k`, the SAE's own is used.
    """
    k = k or sae.k
    assert k is not None
    rows = CPU_ROWS if x.device.type == "cpu" else len(x)
    blocks = []
    with torch.no_grad():
        for part in x.split(rows):
            hidden_pre = encoder_product(part - sae.b_dec, sae.W_enc, sae.b_enc, precision)
            highest = sae.sizes(hidden_pre).amax(0)
            blocks.append((*sae.select(hidden_pre, k), highest, hidden_pre if keep else None))
    values, latents, highest, kept = zip(*blocks, strict=True)
    tokens = torch.arange(len(x), device=x.device).repeat_interleave(k, output_size=len(x) * k)
    entries = Entries(torch.cat(latents).flatten(), tokens, (len(x), sae.d_sae))
    codes = _selected_codes(sae, x, torch.cat(values).flatten(), entries)
    return Forward(
        x_hat=_decode(sae, codes, entries),
        fired=entries.fired(codes),
        positive=torch.stack(highest).amax(0) > 0,
        hidden_pre=torch.cat(kept) if keep else None,
    )


def batch_topk_forward(
    sae: SAE, x: Tensor, precision: Precision, k: int | None = None, widths: Sequence[int] = ()
) -> Forward:
    """The k * tokens largest positive pre-activations of the batch (Bussmann et al. 2024); `k` as in `topk_forward`.

    With `widths`, `inner` has the reconstructions by the first latents alone, so many each.
    """
    k = k or sae.k
    assert k is not None
    with torch.no_grad():
        hidden_pre = encoder_product(x - sae.b_dec, sae.W_enc, sae.b_enc, precision)
        values, places = (found.squeeze(0) for found in largest(hidden_pre.view(1, -1), k * len(x)))
        places, order = places.sort()
        entries = Entries(places % sae.d_sae, places // sae.d_sae, (len(x), sae.d_sae))
    codes = _selected_codes(sae, x, values[order], entries)
    inner = [_decode(sae, codes * (entries.latents < width), entries) for width in widths]
    return Forward(
        x_hat=_decode(sae, codes, entries),
        fired=entries.fired(codes),
        positive=hidden_pre.amax(0) > 0,
        hidden_pre=hidden_pre,
        inner=inner,
        smallest=codes.detach().amin(),
    )


def _selected_codes(sae: SAE, x: Tensor, values: Tensor, entries: Entries) -> Tensor:
    pre = SelectedPreActivations.apply(values, x, sae.W_enc, sae.b_enc, sae.b_dec, entries)
    return pre if sae.architecture == "abs_topk" else pre.relu()


def _decode(sae: SAE, codes: Tensor, entries: Entries) -> Tensor:
    return DecodeSelected.apply(codes, sae.W_dec, entries) + sae.b_dec


def relu_forward(sae: SAE, x: Tensor, precision: Precision, config: ReLUConfig) -> Forward:
    """Every positive pre-activation; the penalty is l1 sum_i z_i ||d_i||, averaged over tokens."""
    pre = _dense_pre_activations(sae, x, precision)
    sums = relu(pre).sum(0)
    penalty = config.l1 * (sums @ torch.linalg.vector_norm(sae.W_dec, dim=1)) / len(x)
    positive = pre.detach().amax(0) > 0
    return Forward(Decode.apply(relu, sae.W_dec, pre) + sae.b_dec, positive, positive, pre.detach(), penalty)


def jumprelu_forward(
    sae: SAE, x: Tensor, precision: Precision, config: JumpReLUConfig, penalty_of: Callable[[Tensor], Tensor]
) -> Forward:
    """Pre-activations above their thresholds; `penalty_of` computes the penalty of pre-activations with gradients."""
    pre = _dense_pre_activations(sae, x, precision)
    activation: Callable[..., Tensor] = partial(_jump, bandwidth=config.bandwidth)
    x_hat = Decode.apply(activation, sae.W_dec, pre, sae.threshold) + sae.b_dec
    highest = pre.detach().amax(0)
    return Forward(x_hat, highest > sae.threshold.detach(), highest > 0, pre.detach(), penalty_of(pre))


def l0_penalty(sae: SAE, pre: Tensor, config: JumpReLUConfig, target_l0: float) -> Tensor:
    """coefficient (L0 / target - 1)^2, L0 of the batch (Rajamanoharan et al. 2024)."""
    l0 = Step.apply(pre, sae.threshold, config.bandwidth).sum() / len(pre)
    return config.coefficient * (l0 / target_l0 - 1).square()


def tanh_penalty(sae: SAE, pre: Tensor, bandwidth: float, scale: float) -> Tensor:
    """sum_i tanh(scale z_i ||d_i||), averaged over tokens (Anthropic, January 2025)."""

    def count(pre: Tensor, threshold: Tensor, norms: Tensor) -> Tensor:
        return (scale * _jump(pre, threshold, bandwidth) * norms).tanh_().sum()

    return Recomputed.apply(count, pre, sae.threshold, torch.linalg.vector_norm(sae.W_dec, dim=1)) / len(pre)


def _jump(hidden_pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return JumpReLU.apply(hidden_pre, threshold, bandwidth)


def _dense_pre_activations(sae: SAE, x: Tensor, precision: Precision) -> Tensor:
    with torch.no_grad():
        values = encoder_product(x - sae.b_dec, sae.W_enc, sae.b_enc, precision)
    return DensePreActivations.apply(values, x, sae.W_enc, sae.b_enc, sae.b_dec)
