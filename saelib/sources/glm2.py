"""gLM2 (Cornman et al. 2024, doi:10.1101/2024.08.14.607850): proteins and DNA in one encoder.

The published weights are run by a network of our own, so no code from the hub is run. Each block has attention and a
gated MLP, both after an RMSNorm, with rotary positions and no biases.
"""

from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, model_validator
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

from saelib.config.sources import Glm2Source
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.base import torch_device, torch_dtype
from saelib.sources.loading.checkpoint import load_weights, read_settings, read_weights
from saelib.sources.networks.rotary import Rotary
from saelib.sources.tokens import Tokens, TokenSource

NAME = "gLM2"
AMINO_ACIDS, NUCLEOTIDES = "LAGVSERTIDPKQNFYMHWCXBUZO", "atcg"
VOCABULARY = {
    token: number
    for number, token in enumerate(
        ["<cls>", "<pad>", "<eos>", "<unk>", *AMINO_ACIDS, *NUCLEOTIDES, "<+>", "<->", "<mask>", "<sep>"]
    )
}
"""Token -> id, the same in every published gLM2."""
TRAINED_LENGTH = 4096
"""Most tokens in training; the model itself accepts more."""
PREFIX = "glm2."
HEAD = "lm_head."


def open_source(config: Glm2Source, device: str, dtype: str) -> TokenSource:
    """Loads a folder with config.json and the weights.

    Raises:
        UserError: if files or weights are missing, or `config.max_length` is more than the model was trained on.
    """
    if config.max_length > TRAINED_LENGTH:
        raise UserError(f"{NAME}: max_length is {config.max_length}, but it was trained on {TRAINED_LENGTH} tokens")
    target = torch_device(device)
    model = _load(fetch(config.weights)).to(target, torch_dtype(dtype))
    return TokenSource(
        NAME,
        config,
        model,
        list(model.blocks),
        lambda sequence: tokenize(sequence, config.alphabet, config.strand),
        d_in=model.tok_embeddings.embedding_dim,
        pad_id=VOCABULARY["<pad>"],
        call=model,
    )


def tokenize(sequence: str, alphabet: str = "protein", strand: str = "+") -> Tokens:
    """Returns the strand and one token for each letter: amino acids in upper case, nucleotides in lower; else <unk>."""
    letters, known = (sequence.upper(), AMINO_ACIDS) if alphabet == "protein" else (sequence.lower(), NUCLEOTIDES)
    own = [VOCABULARY[letter if letter in known else "<unk>"] for letter in letters]
    return Tokens([VOCABULARY[f"<{strand}>"]], own, [])


class Settings(BaseModel):
    """The network's sizes in a checkpoint's config.json."""

    dim: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    vocab_size: Annotated[int, Field(ge=len(VOCABULARY))]
    norm_eps: PositiveFloat = 1e-5

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} is not made of {self.heads} heads of an even width")
        return self


class Glm2(nn.Module):
    """The published encoder without its head. Attributes have the names of the published weights."""

    def __init__(self, settings: Settings, hidden: int) -> None:
        """Builds the network from its `settings` and the `hidden` width inside the MLP."""
        super().__init__()
        self.tok_embeddings = nn.Embedding(settings.vocab_size, settings.dim)
        layers = (Block(settings.dim, settings.heads, hidden, settings.norm_eps) for _ in range(settings.depth))
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.blocks = list(self.encoder["layers"].children())

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Runs the network on ids and mask (1: token, 0: padding), both [examples, tokens].

        Returns:
            The output of the last block, [examples, tokens, dim].
        """
        x = self.tok_embeddings(ids)
        seen = mask.bool()[:, None, None, :]
        for block in self.blocks:
            x = block(x, seen)
        return x


class Block(nn.Module):
    """One residual block."""

    def __init__(self, dim: int, heads: int, hidden: int, norm_eps: float) -> None:
        """Builds a block with the sizes of `Settings` and `Glm2`."""
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(dim, norm_eps)
        self.attention = nn.ModuleDict(
            {"wqkv": nn.Linear(dim, 3 * dim, bias=False), "wo": nn.Linear(dim, dim, bias=False)}
        )
        self.rotary = Rotary()
        self.ffn_norm = nn.RMSNorm(dim, norm_eps)
        self.feed_forward = nn.ModuleDict(
            {
                "w1": nn.Linear(dim, hidden, bias=False),
                "w2": nn.Linear(hidden, dim, bias=False),
                "w3": nn.Linear(dim, hidden, bias=False),
            }
        )

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Runs the block on `x` [examples, tokens, dim]; `seen` [examples, 1, 1, tokens] may be attended to."""
        x = x + self._attend(self.attention_norm(x), seen)
        mlp, normed = self.feed_forward, self.ffn_norm(x)
        return x + mlp["w2"](silu(mlp["w1"](normed)) * mlp["w3"](normed))

    def _attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        # [examples, tokens, 3 * dim] -> three of [examples, heads, tokens, head width]
        q, k, v = self.attention["wqkv"](x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.rotary(q, k)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.attention["wo"](mixed.transpose(1, 2).flatten(2))


def _load(folder: Path) -> Glm2:
    settings = read_settings(folder / "config.json", NAME, Settings)
    weights = {
        key.removeprefix(PREFIX): value for key, value in read_weights(folder, NAME).items() if not key.startswith(HEAD)
    }
    gates = weights.get("encoder.layers.0.feed_forward.w1.weight")
    if gates is None:
        raise UserError(f"{NAME}: {folder}: does not hold the weights of a gLM2")
    with torch.device("meta"):
        model = Glm2(settings, hidden=len(gates))
    load_weights(model, weights, NAME, assign=True)
    return model
