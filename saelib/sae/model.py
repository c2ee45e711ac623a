"""The sparse autoencoder: five architectures, one set of parameters."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from saelib.sae.products import largest, product

Architecture = Literal["topk", "batch_topk", "abs_topk", "relu", "jumprelu"]
WITH_K = ("topk", "batch_topk", "abs_topk")
"""Architectures that have a number k of latents for each token."""
BYPASS = ("bypass_in", "bypass_out")
"""Names of the weights of a bypass, which an SAE has both of or none."""


class SAE(nn.Module):
    """z = activation((x - b_dec) W_enc + b_enc), x_hat = z W_dec + b_dec (paper, section 1.1; names as in SAELens).

    Parameters: `W_enc` [d_in, d_sae], `W_dec` [d_sae, d_in], `b_enc` [d_sae], `b_dec` [d_in]; `jumprelu` also has
    `threshold` [d_sae], and `batch_topk` a buffer `threshold` [], the bar that stands in for the batch when a
    token is encoded on its own. With a bypass, `bypass_in` [d_in, rank] and `bypass_out` [rank, d_in] add
    (x - b_dec) bypass_in bypass_out to x_hat. In memory W_enc and W_dec lie latent by latent, as gradients and kernels
    do.
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_enc: nn.Parameter
    b_dec: nn.Parameter
    threshold: Tensor
    bypass_in: nn.Parameter | None
    bypass_out: nn.Parameter | None

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor], k: int | None = None) -> None:
        """Takes `tensors` (named as above) as they are, without a copy.

        Args:
            architecture: What makes codes of pre-activations.
            tensors: The parameters.
            k: Latents of a token, of the architectures in `WITH_K`.
        """
        super().__init__()
        self.architecture: Architecture = architecture
        self.k = k
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            self.register_parameter(name, nn.Parameter(tensors[name]))
        for name in BYPASS:
            self.register_parameter(name, nn.Parameter(tensors[name]) if name in tensors else None)
        if architecture == "jumprelu":
            self.register_parameter("threshold", nn.Parameter(tensors["threshold"]))
        elif architecture == "batch_topk":
            self.register_buffer("threshold", tensors.get("threshold", torch.zeros(())))

    @property
    def d_in(self) -> int:
        """Width of an activation."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_dec.shape[0]

    def extra_repr(self) -> str:
        """Shows the architecture and the sizes when the module is printed."""
        selected = f", k={self.k}" if self.k else ""
        bypass = "" if self.bypass_in is None else f", bypass of rank {self.bypass_in.shape[1]}"
        return f"{self.architecture}, d_in={self.d_in:,}, d_sae={self.d_sae:,}{selected}{bypass}"

    def hidden_pre(self, x: Tensor) -> Tensor:
        """Pre-activations: [tokens, d_in] -> [tokens, d_sae]."""
        # Subtract first: at a large mean, x W - b W would cancel catastrophically in float32.
        return product(x - self.b_dec, self.W_enc, self.b_enc)

    def sizes(self, hidden_pre: Tensor) -> Tensor:
        """Returns the values that a selection compares: pre-activations, or for `abs_topk` their absolute values."""
        return hidden_pre.abs() if self.architecture == "abs_topk" else hidden_pre

    def select(self, hidden_pre: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
        """Codes and latents that `topk` and `abs_topk` select, k of each token: [tokens, d_sae] -> [tokens, k] each."""
        k = k or self.k
        assert k is not None
        values, indices = largest(self.sizes(hidden_pre), k)
        return hidden_pre.gather(1, indices) if self.architecture == "abs_topk" else values.relu(), indices

    def activate(self, hidden_pre: Tensor) -> Tensor:
        """Codes of tokens that are looked at one by one: [tokens, d_sae] -> [tokens, d_sae], dense.

        They are >= 0, except those of `abs_topk`, which have either sign.
        """
        match self.architecture:
            case "topk" | "abs_topk":
                values, indices = self.select(hidden_pre)
                return torch.zeros_like(hidden_pre).scatter(1, indices, values)
            case "relu":
                return hidden_pre.relu()
            case "batch_topk" | "jumprelu":
                return hidden_pre * ((hidden_pre > self.threshold) & (hidden_pre > 0))

    def encode(self, x: Tensor) -> Tensor:
        """Codes, dense: [tokens, d_in] -> [tokens, d_sae]."""
        return self.activate(self.hidden_pre(x))

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Reconstructions, without the bypass's part: [tokens, d_sae] -> [tokens, d_in]."""
        return product(feature_acts, self.W_dec, self.b_dec)

    def bypass(self, x: Tensor) -> Tensor | None:
        """The bypass's part of reconstructions, [tokens, d_in] -> the same shape; None without a bypass."""
        if self.bypass_in is None or self.bypass_out is None:
            return None
        return (x - self.b_dec) @ self.bypass_in @ self.bypass_out

    def add_bypass(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Reconstructions [tokens, d_in] of `x` by the latents, with the bypass's part, if there is one."""
        part = self.bypass(x)
        return x_hat if part is None else x_hat + part

    def forward(self, x: Tensor) -> Tensor:
        """Encodes and decodes."""
        return self.add_bypass(self.decode(self.encode(x)), x)
