"""StripedHyena, the network of Evo-1 (Poli et al. 2023, Nguyen et al. 2024), in plain torch: whole sequences, no cache.

The parameters have the names of the published checkpoints, without their prefix `backbone.`.
"""

from typing import Literal

import torch
from pydantic import BaseModel, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional


class Architecture(BaseModel):
    """The network's settings in a checkpoint's `config.json`. A setting with one choice is the same in every Evo-1."""

    model_type: Literal["stripedhyena"]
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_attention_heads: PositiveInt
    attn_layer_idxs: frozenset[int]
    """Blocks with attention, counted from 0; the others have a Hyena filter."""
    inner_mlp_size: PositiveInt
    state_size: PositiveInt
    """Number of poles of each channel's filter."""
    short_filter_length: PositiveInt
    eps: PositiveFloat
    max_seqlen: PositiveInt
    rotary_emb_base: PositiveFloat = 10_000.0
    use_interpolated_rotary_pos_emb: bool = False
    rotary_emb_scaling_factor: PositiveFloat = 1.0
    mlp_activation: Literal["gelu"] = "gelu"
    proj_groups: Literal[1] = 1
    hyena_filter_groups: Literal[1] = 1
    column_split_hyena: Literal[True] = True
    smeared_gqa: Literal[False] = False
    short_filter_bias: Literal[True] = True
    qkv_proj_bias: Literal[True] = True
    mha_out_proj_bias: Literal[True] = True

    @property
    def head_size(self) -> int:
        """Number of channels of a head."""
        return self.hidden_size // self.num_attention_heads


class StripedHyena(nn.Module):
    """The whole network up to the last block, without the final norm.

    It is causal: nothing depends on later tokens, so padding on the right has no effect.
    """

    def __init__(self, config: Architecture) -> None:
        """Builds the network with random parameters, all of which a checkpoint replaces."""
        super().__init__()
        self.embedding_layer = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(
            AttentionBlock(config) if index in config.attn_layer_idxs else HyenaBlock(config)
            for index in range(config.num_layers)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Turns token ids [examples, tokens] into the residual stream after the last block."""
        u = self.embedding_layer(ids)
        for block in self.blocks:
            u = block(u)
        return u


class HyenaBlock(nn.Module):
    """A gated long convolution, then an MLP; both read the normed stream and add to it."""

    def __init__(self, config: Architecture) -> None:
        """Builds it with random parameters (see `StripedHyena`)."""
        super().__init__()
        self.pre_norm, self.post_norm = RMSNorm(config), RMSNorm(config)
        self.projections = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.filter = HyenaFilter(config)
        self.out_filter_dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.mlp = GatedMLP(config)

    def forward(self, u: Tensor) -> Tensor:
        """Maps [examples, tokens, channels] to the same shape."""
        u = self.out_filter_dense(self.filter(self.projections(self.pre_norm(u)))) + u
        return self.mlp(self.post_norm(u)) + u


class AttentionBlock(nn.Module):
    """Causal attention, then an MLP; both read the normed stream and add to it."""

    def __init__(self, config: Architecture) -> None:
        """Builds it with random parameters (see `StripedHyena`)."""
        super().__init__()
        self.pre_norm, self.post_norm = RMSNorm(config), RMSNorm(config)
        self.inner_mha_cls = Attention(config)
        self.mlp = GatedMLP(config)

    def forward(self, u: Tensor) -> Tensor:
        """Maps [examples, tokens, channels] to the same shape."""
        u = self.inner_mha_cls(self.pre_norm(u)) + u
        return self.mlp(self.post_norm(u)) + u


class HyenaFilter(nn.Module):
    """The filter `x2 * (h * (x1 v) + D x1 v)`, where x1, x2 and v are short convolutions of the projections.

    `h` is a sum of damped oscillations, one for each pole: `h[t] = Re(sum over s of residue_s pole_s^t)`. Every channel
    has its own, as long as the sequence (Massaroli et al. 2023, arXiv:2310.18780, equation of the modal form). Poles
    and residues stay float32 whatever the model's dtype, because powers of rounded poles would drift.
    """

    def __init__(self, config: Architecture) -> None:
        """Builds it with random parameters (see `StripedHyena`)."""
        super().__init__()
        width, states = config.hidden_size, config.state_size
        self.heads = config.num_attention_heads
        self.D = nn.Parameter(torch.randn(width))
        self.short_filter_weight = nn.Parameter(torch.randn(3 * width, 1, config.short_filter_length))
        self.short_filter_bias = nn.Parameter(torch.randn(3 * width))
        self.poles = nn.Parameter(torch.rand(width, states, 1, 2))
        self.residues = nn.Parameter(torch.randn(width, states, 1, 2))

    def forward(self, z: Tensor) -> Tensor:
        """Turns the projections [examples, tokens, 3 channels] into [examples, tokens, channels]."""
        length = z.shape[1]
        weight = self.short_filter_weight
        z = functional.conv1d(z.transpose(1, 2), weight, padding=weight.shape[-1] - 1, groups=weight.shape[0])
        z = z[..., :length] + self.short_filter_bias[:, None]
        # Each head keeps its part of the three signals together.
        x2, x1, v = (part.flatten(1, 2) for part in z.unflatten(1, (self.heads, 3, -1)).unbind(2))
        gated = x1 * v
        y = causal_convolution(gated, self.impulse_response(length)) + gated * self.D[:, None]
        return (y * x2).transpose(1, 2)

    def impulse_response(self, length: int) -> Tensor:
        """Computes `h`: float32 [channels, length]."""
        time = torch.arange(length, device=self.poles.device)
        log_poles, residues = torch.view_as_complex(self.poles).log(), torch.view_as_complex(self.residues)
        response = torch.zeros(len(self.poles), length, device=self.poles.device)
        # All poles at once would be [channels, poles, length] complex numbers, 2 GiB for 8,192 tokens.
        for log_pole, residue in zip(log_poles.unbind(1), residues.unbind(1), strict=True):
            response += (residue * (log_pole * time).exp()).real
        return response


def causal_convolution(signal: Tensor, response: Tensor) -> Tensor:
    """Computes `sum over s <= t of response[s] signal[t - s]`, by FFT in float32.

    It needs about 1 GiB for 8,192 tokens with Evo-1's 4,096 channels.

    Args:
        signal: [examples, channels, tokens].
        response: float32 [channels, tokens].
    """
    length = signal.shape[-1]
    spectrum = torch.fft.rfft(signal.float(), n=2 * length) * torch.fft.rfft(response, n=2 * length)
    return torch.fft.irfft(spectrum, n=2 * length)[..., :length].to(signal.dtype)


class Attention(nn.Module):
    """Multi-head causal attention with rotary positions. The names are those of flash-attn's module."""

    def __init__(self, config: Architecture) -> None:
        """Builds it with random parameters (see `StripedHyena`)."""
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.head_size
        self.base = config.rotary_emb_base
        self.stretch = config.rotary_emb_scaling_factor if config.use_interpolated_rotary_pos_emb else 1.0
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [examples, tokens, channels] to the same shape."""
        qkv = self.Wqkv(x).unflatten(-1, (3, self.heads, self.head_size))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [examples, heads, tokens, head_size]
        angles = self._angles(x.shape[1], x.device)
        mixed = functional.scaled_dot_product_attention(
            rotate(query, angles), rotate(key, angles), value, is_causal=True
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _angles(self, length: int, device: torch.device) -> Tensor:
        """Returns the angle of each position: float32 [tokens, head_size / 2]."""
        frequencies = self.base ** (-torch.arange(0, self.head_size, 2, device=device).float() / self.head_size)
        return torch.outer(torch.arange(length, device=device).float() / self.stretch, frequencies)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates channel i together with channel i + head_size / 2 (rotary positions, Su et al. 2021), in float32."""
    cos, sin = angles.cos(), angles.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class GatedMLP(nn.Module):
    """The MLP `l3(gelu(l1 x) * l2 x)`."""

    def __init__(self, config: Architecture) -> None:
        """Builds it with random parameters (see `StripedHyena`)."""
        super().__init__()
        self.l1 = nn.Linear(config.hidden_size, config.inner_mlp_size, bias=False)
        self.l2 = nn.Linear(config.hidden_size, config.inner_mlp_size, bias=False)
        self.l3 = nn.Linear(config.inner_mlp_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., channels] to the same shape."""
        return self.l3(functional.gelu(self.l1(x)) * self.l2(x))


class RMSNorm(nn.Module):
    """The norm `x / (rms(x) + eps) * scale`, whose eps is outside the root, unlike in torch's RMSNorm."""

    def __init__(self, config: Architecture) -> None:
        """Builds it with random parameters (see `StripedHyena`)."""
        super().__init__()
        self.eps = config.eps
        self.scale = nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., channels] to the same shape."""
        return x / (x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + self.eps) * self.scale
