"""A code as its few selected entries: selection, pre-activations and reconstruction, forwards and backwards.

Only selected entries carry a gradient, so neither a dense code, nor its gradient, nor the dense products with it are
ever made: each latent sums over its own tokens.
"""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Entries:
    """The latents that each token of a batch selected: `latents` [entries], token by token."""

    def __init__(self, latents: Tensor, tokens: Tensor, shape: tuple[int, int]) -> None:
        """`tokens` [entries]: ascending. `shape`: tokens, d_sae."""
        self.latents, self.tokens = latents, tokens
        n_tokens, self.d_sae = shape
        self.starts = torch.searchsorted(tokens, torch.arange(n_tokens, device=tokens.device))
        """[tokens]; the first entry of each token."""

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """The order of the entries sorted by latent [entries], and the first entry of each latent [d_sae]."""
        latents, order = torch.sort(self.latents, stable=True)
        return order, torch.searchsorted(latents, torch.arange(self.d_sae, device=latents.device))

    def sum_by_latent(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Sum over each latent's entries of weight times the token's row: [d_sae, width].

        `weights`: [entries]; `rows`: [tokens, width].
        """
        order, starts = self.by_latent
        return F.embedding_bag(self.tokens[order], rows, starts, per_sample_weights=weights[order], mode="sum")

    def fired(self, codes: Tensor) -> Tensor:
        """Marks the latents with a code [entries] other than 0 (a selected 0 does not count): boolean [d_sae]."""
        counts = torch.zeros(self.d_sae, dtype=torch.int32, device=codes.device)
        return counts.index_add_(0, self.latents, (codes != 0).int()) > 0


class SelectedPreActivations(torch.autograd.Function):
    """Pre-activations [entries] of the selected latents, whose values are known already. `x` gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, entries: Entries
    ) -> Tensor:
        """`values` [entries], x [tokens, d_in] and the parameters."""
        ctx.save_for_backward(x, W_enc, b_dec)
        ctx.entries = entries
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of W_enc, b_enc and b_dec."""
        x, W_enc, b_dec = ctx.saved_tensors
        (d_selected,) = gradients
        d_W_enc = ctx.entries.sum_by_latent(d_selected, x - b_dec).T
        d_b_enc = ctx.entries.sum_by_latent(d_selected, x.new_ones(len(x), 1)).squeeze(1)
        return None, None, d_W_enc, d_b_enc, -(W_enc @ d_b_enc), None


class DecodeSelected(torch.autograd.Function):
    """Reconstructions [tokens, d_in], without b_dec, of the codes of the selected latents."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, W_dec: Tensor, entries: Entries) -> Tensor:
        """`codes` [entries], W_dec [d_sae, d_in]."""
        ctx.save_for_backward(codes, W_dec)
        ctx.entries = entries
        return F.embedding_bag(entries.latents, W_dec, entries.starts, per_sample_weights=codes, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the codes and of W_dec."""
        codes, W_dec = ctx.saved_tensors
        entries: Entries = ctx.entries
        gradient = gradients[0].contiguous()
        # What autograd itself calls for these products; its gradient of W_dec takes five times `sum_by_latent`'s time.
        d_codes = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            gradient, W_dec, entries.latents, entries.starts, entries.tokens, 0
        )
        return d_codes, entries.sum_by_latent(codes, gradient), None
