"""Modules with the parameters, shapes and rules of other libraries' SAEs, for tests without those libraries."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

D_IN, D_SAE, K = 24, 96, 6


class EncodeOut(NamedTuple):
    """What `encode` of saev returns."""

    h_x: Tensor
    f_x: Tensor


class EncoderOutput(NamedTuple):
    """What `encode` of sparsify returns."""

    top_acts: Tensor
    top_indices: Tensor
    pre_acts: Tensor


class Parameters(nn.Module):
    """Tied unit directions, as SAELens, saev and dictionary_learning's Matryoshka store them."""

    def __init__(self, d_in: int = D_IN, d_sae: int = D_SAE, k: int = K) -> None:
        super().__init__()
        rows = F.normalize(torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(0)), dim=1)
        self.W_enc, self.W_dec = nn.Parameter(rows.T.clone()), nn.Parameter(rows.clone())
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(d_sae)), nn.Parameter(torch.zeros(d_in))
        self.k = k


class SAELens(Parameters):
    """A `TopKTrainingSAE`."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        rules: dict[str, Any] = {"apply_b_dec_to_input": True, "normalize_activations": "none"}
        self.cfg = SimpleNamespace(**rules | {"rescale_acts_by_decoder_norm": True} | config)
        self.hook_sae_acts_pre, self.hook_sae_acts_post = nn.Identity(), nn.Identity()

    def pre(self, x: Tensor) -> Tensor:
        hidden_pre = self.hook_sae_acts_pre((x - self.b_dec) @ self.W_enc + self.b_enc)
        self.hook_sae_acts_post(select(hidden_pre, self.k))
        return hidden_pre

    def fold_W_dec_norm(self) -> None:
        norms = self.W_dec.data.norm(dim=1)
        self.W_enc.data *= norms
        self.W_dec.data /= norms[:, None]


class Saev(Parameters):
    """A `SparseAutoencoder` as in saev's repository of March 2026: `encode` reads x without b_dec."""

    def encode(self, x: Tensor) -> EncodeOut:
        h_x = x @ self.W_enc + self.b_enc
        _, chosen = h_x.topk(self.k, dim=-1)
        return EncodeOut(h_x, h_x * torch.zeros_like(h_x).scatter(-1, chosen, 1.0))

    def pre(self, x: Tensor) -> Tensor:
        return self.encode(x).h_x

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x).f_x @ self.W_dec + self.b_dec


class Linear(nn.Module):
    """Linear layers, as dictionary_learning and sparsify have them."""

    def __init__(self) -> None:
        super().__init__()
        weights = Parameters()
        self.encoder = nn.Linear(D_IN, D_SAE)
        self.encoder.weight.data.copy_(weights.W_enc.T)
        self.encoder.bias.data.zero_()
        self.b_dec = nn.Parameter(torch.zeros(D_IN))

    def pre(self, x: Tensor) -> Tensor:
        return self.encoder(x - self.b_dec)


class AutoEncoderTopK(Linear):
    """dictionary_learning's."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(D_SAE, D_IN, bias=False)
        self.decoder.weight.data.copy_(self.encoder.weight.T)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        post_relu = self.pre(x).relu()
        values, indices = post_relu.topk(K)
        return select(post_relu, K), values, indices, post_relu


class JumpReLU(Parameters):
    """dictionary_learning's `JumpReluAutoEncoder` with its default, which does not center its input."""

    apply_b_dec_to_input = False


class Transcoder(SAELens):
    """A transcoder of SAELens."""

    def __init__(self) -> None:
        super().__init__()
        self.b_dec_out = nn.Parameter(torch.zeros(D_IN))


class Matryoshka(Parameters):
    """dictionary_learning's `MatryoshkaBatchTopKSAE`, with one group."""

    def pre(self, x: Tensor) -> Tensor:
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        post_relu = self.pre(x).relu()
        codes = select(post_relu, self.k)
        return codes, codes.sum(0) > 0, post_relu


class Gated(nn.Module):
    """dictionary_learning's `GatedAutoEncoder`, as far as a start is concerned."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(D_IN, D_SAE, bias=False), nn.Linear(D_SAE, D_IN, bias=False)
        self.decoder_bias = nn.Parameter(torch.zeros(D_IN))


class AutoEncoder(nn.Module):
    """dictionary_learning's ReLU SAE, whose `encode` returns the codes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(D_IN, D_SAE), nn.Linear(D_SAE, D_IN, bias=False)
        self.bias = nn.Parameter(torch.zeros(D_IN))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x - self.bias).relu()


class TopKTrainer:
    """dictionary_learning's: its first step takes the bias from the first batch."""

    def __init__(self, ae: Any = None) -> None:
        self.ae = ae or AutoEncoderTopK()

    def update(self, step: int, x: Tensor) -> None:
        if step == 0:
            self.ae.b_dec.data = x.mean(dim=0)
        self.ae.encode(x)


class SparseCoder(Linear):
    """sparsify's."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(**{"transcode": False, "normalize_decoder": True} | config)
        self.W_dec = nn.Parameter(self.encoder.weight.data.clone())

    def encode(self, x: Tensor) -> EncoderOutput:
        pre_acts = self.pre(x).relu()
        return EncoderOutput(*pre_acts.topk(K), pre_acts)

    def forward(self, x: Tensor) -> Tensor:
        top_acts, top_indices, _ = self.encode(x)
        return F.embedding(top_indices, self.W_dec).mul(top_acts[..., None]).sum(-2) + self.b_dec


def select(hidden_pre: Tensor, k: int) -> Tensor:
    values, indices = hidden_pre.topk(k)
    return torch.zeros_like(hidden_pre).scatter(-1, indices, values.relu())
