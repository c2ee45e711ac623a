"""A code with a value for every latent: pre-activations, activation functions and reconstruction.

For the backward pass nothing of the size [tokens, latents] is kept but the pre-activations.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saelib.sae.products import product


class DensePreActivations(torch.autograd.Function):
    """(x - b_dec) W_enc + b_enc, whose values are known already: [tokens, latents]. `x` gets no gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
        """`values` [tokens, latents], x [tokens, d_in] and the parameters of these latents."""
        ctx.save_for_backward(x, W_enc, b_dec)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of W_enc, b_enc and b_dec."""
        x, W_enc, b_dec = ctx.saved_tensors
        (d_pre,) = gradients
        d_b_enc = d_pre.sum(0)
        return None, None, product(d_pre.T, x - b_dec).T, d_b_enc, -(W_enc @ d_b_enc)


class Decode(torch.autograd.Function):
    """activation(hidden_pre) @ W_dec; the codes are made once more for the backward pass instead of being kept."""

    @staticmethod
    def forward(
        ctx: Any, activation: Callable[..., Tensor], W_dec: Tensor, hidden_pre: Tensor, *parameters: Tensor
    ) -> Tensor:
        """`activation(hidden_pre, *parameters)` -> codes [tokens, latents]; W_dec [latents, d_in]."""
        ctx.save_for_backward(W_dec, hidden_pre, *parameters)
        ctx.activation = activation
        return product(activation(hidden_pre, *parameters), W_dec)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of W_dec, of the pre-activations and of the activation's parameters."""
        W_dec, *inputs = ctx.saved_tensors
        (gradient,) = gradients
        with torch.enable_grad():
            inputs = [value.detach().requires_grad_() for value in inputs]
            codes = ctx.activation(*inputs)
        d_inputs = torch.autograd.grad(codes, inputs, product(gradient, W_dec.T), allow_unused=True)
        return None, product(codes.detach().T, gradient), *d_inputs


class Recomputed(torch.autograd.Function):
    """function(*inputs), one number; what lies in between is computed once more for the backward pass, not kept."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`function(*inputs)` -> []."""
        ctx.save_for_backward(*inputs)
        ctx.function = function
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs."""
        inputs = [value.detach().requires_grad_() for value in ctx.saved_tensors]
        with torch.enable_grad():
            output = ctx.function(*inputs)
        return None, *torch.autograd.grad(output, inputs, gradients, allow_unused=True)


def relu(hidden_pre: Tensor) -> Tensor:
    """max(0, hidden_pre), keeping its input, which is there anyway, and not its output."""
    return torch.nn.functional.threshold(hidden_pre, 0.0, 0.0)


class JumpReLU(torch.autograd.Function):
    """hidden_pre where it exceeds `threshold`, else 0 (Rajamanoharan et al. 2024).

    Backwards, the threshold's pseudo-derivative is -(threshold / bandwidth) within half a bandwidth of it.
    """

    @staticmethod
    def forward(ctx: Any, hidden_pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """`hidden_pre` [tokens, latents], `threshold` [latents]."""
        ctx.save_for_backward(hidden_pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(hidden_pre > threshold, hidden_pre, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the pre-activations and of the threshold."""
        hidden_pre, threshold = ctx.saved_tensors
        (gradient,) = gradients
        near = _near(hidden_pre, threshold, ctx.bandwidth)
        d_threshold = -threshold / ctx.bandwidth * torch.where(near, gradient, 0).sum(0)
        return torch.where(hidden_pre > threshold, gradient, 0), d_threshold, None


class Step(torch.autograd.Function):
    """1 where hidden_pre exceeds `threshold`, else 0: what L0 counts (Rajamanoharan et al. 2024).

    Backwards, the threshold's pseudo-derivative is -1 / bandwidth within half a bandwidth of it; the pre-activations
    have none.
    """

    @staticmethod
    def forward(ctx: Any, hidden_pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """`hidden_pre` [tokens, latents], `threshold` [latents]."""
        ctx.save_for_backward(hidden_pre, threshold)
        ctx.bandwidth = bandwidth
        return (hidden_pre > threshold).to(hidden_pre.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the threshold."""
        hidden_pre, threshold = ctx.saved_tensors
        (gradient,) = gradients
        near = _near(hidden_pre, threshold, ctx.bandwidth)
        return None, torch.where(near, gradient, 0).sum(0) / -ctx.bandwidth, None


def _near(hidden_pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (hidden_pre - threshold).abs() < bandwidth / 2
