"""The TopK SAE, computed on its k selected latents instead of on a dense code."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TopKSAE(nn.Module):
    """z = TopK(ReLU((x - b_dec) W_enc + b_enc)), x_hat = z W_dec + b_dec (paper, section 3; names as in SAELens).

    Parameters: W_enc [d_in, d_sae], W_dec [d_sae, d_in] with rows of unit norm, b_enc [d_sae], b_dec [d_in].
    """

    def __init__(
        self, d_in: int, d_sae: int, k: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> None:
        """Rows of W_dec uniform on the unit sphere, W_enc its transpose (a copy, tied at the start only), biases 0."""
        super().__init__()
        self.k = k
        directions = F.normalize(torch.randn(d_sae, d_in, generator=generator, dtype=dtype), dim=1)
        self.W_dec = nn.Parameter(directions)
        # The copy of a transpose keeps its memory order: a latent's encoder weights are contiguous, as its
        # gradient in `SelectedPreActivations` is.
        self.W_enc = nn.Parameter(directions.T.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae, dtype=dtype))
        self.b_dec = nn.Parameter(torch.zeros(d_in, dtype=dtype))

    def hidden_pre(self, x: Tensor, latents: Tensor | slice = slice(None)) -> Tensor:
        """Dense pre-activations of some latents: [tokens, latents]."""
        # Subtract first: at a large mean, x W - b W would cancel catastrophically in float32.
        return torch.addmm(self.b_enc[latents], x - self.b_dec, self.W_enc[:, latents])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The k largest latents of each token, unsorted, and what they were chosen from.

        Returns:
            Values [tokens, k] (>= 0, differentiable), indices [tokens, k], pre-activations [tokens, d_sae] (constants).
        """
        with torch.no_grad():
            hidden_pre = self.hidden_pre(x)
            values, indices = hidden_pre.topk(self.k, dim=1, sorted=False)
        selected = SelectedPreActivations.apply(x, self.W_enc, self.b_enc, self.b_dec, values, indices)
        return torch.relu(selected), indices, hidden_pre

    def decode(self, values: Tensor, indices: Tensor) -> Tensor:
        """Reconstruct from selected latents: [tokens, d_in]."""
        return F.embedding_bag(indices, self.W_dec, per_sample_weights=values, mode="sum") + self.b_dec

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from W_dec's gradient what would only change the norms of its rows."""
        gradient = self.W_dec.grad
        assert gradient is not None
        gradient -= torch.linalg.vecdot(gradient, self.W_dec)[:, None] * self.W_dec

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Set the rows of W_dec back to unit norm."""
        self.W_dec /= torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True)


class SelectedPreActivations(torch.autograd.Function):
    """Pre-activations [tokens, k] of the selected latents, whose values are known already.

    Backwards, only the selected entries carry a gradient: each latent sums its own tokens, so neither the dense
    [tokens, d_sae] gradient nor the dense matrix products with it are ever made. `x` gets no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, values: Tensor, indices: Tensor
    ) -> Tensor:
        """`values`, `indices`: [tokens, k]."""
        ctx.save_for_backward(x, W_enc, b_dec, indices)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of W_enc, b_enc and b_dec."""
        x, W_enc, b_dec, indices = ctx.saved_tensors
        (d_selected,) = gradients
        latents, order = torch.sort(indices.flatten(), stable=True)
        starts = torch.searchsorted(latents, torch.arange(W_enc.shape[1], device=x.device))
        weights = d_selected.flatten()[order]
        d_W_enc = F.embedding_bag(
            order // indices.shape[1], x - b_dec, starts, per_sample_weights=weights, mode="sum"
        ).T
        d_b_enc = F.embedding_bag(order, d_selected.reshape(-1, 1), starts, mode="sum").squeeze(1)
        return None, d_W_enc, d_b_enc, -(W_enc @ d_b_enc), None, None
