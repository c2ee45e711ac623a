"""ProGen2 (Nijkamp et al. 2023, doi:10.1016/j.cels.2023.10.002), loaded into transformers' GPT-J.

The published block is GPT-J's: one LayerNorm, then attention and MLP in parallel, and rotary embeddings that pair
neighboring channels. Only queries, values and keys are stored differently; the published code is not needed.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AliasChoices, BaseModel, Field, PositiveFloat, PositiveInt, model_validator
from tokenizers import Tokenizer
from transformers import GPTJConfig, GPTJModel
from transformers.models.gptj.modeling_gptj import create_sinusoidal_positions

from saelib.config.sources import Progen2Source
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.base import torch_device, torch_dtype
from saelib.sources.loading.checkpoint import load_weights, read_settings, read_weights
from saelib.sources.tokens import Tokens, TokenSource

NAME = "ProGen2"
CORES = 8
"""Number of pieces that the projection of queries, values and keys is stored in, one for each TPU core in training."""


class Settings(BaseModel):
    """GPT-J's settings, under the names of the published config.json or of ports on the hub."""

    vocab_size: Annotated[PositiveInt, Field(validation_alias=AliasChoices("vocab_size", "vocab_size_emb"))]
    n_positions: PositiveInt
    n_embd: Annotated[PositiveInt, Field(validation_alias=AliasChoices("n_embd", "embed_dim"), multiple_of=CORES)]
    n_layer: PositiveInt
    n_head: Annotated[PositiveInt, Field(multiple_of=CORES)]
    rotary_dim: PositiveInt
    n_inner: PositiveInt | None = None
    activation_function: Literal["gelu_new"] = "gelu_new"
    layer_norm_epsilon: PositiveFloat = 1e-5

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not made of {self.n_head} whole heads")
        return self


def open_source(config: Progen2Source, device: str, dtype: str) -> TokenSource:
    """Loads a folder with config.json, tokenizer.json and the weights (safetensors or `.bin`).

    Raises:
        UserError: if files or weights are missing, or `config.max_length` exceeds the model's positions.
    """
    folder = fetch(config.weights)
    target = torch_device(device)
    vocabulary = _vocabulary(folder / "tokenizer.json")
    model = _load(folder)
    limit = model.config.n_positions
    if config.max_length > limit:
        raise UserError(f"{NAME}: max_length is {config.max_length}, but the model reads at most {limit} tokens")
    return TokenSource(
        NAME,
        config,
        model.to(target, torch_dtype(dtype)),
        list(model.h),
        lambda sequence: tokenize(sequence, vocabulary, config.reverse),
        d_in=model.config.n_embd,
        pad_id=0,
    )


def tokenize(sequence: str, vocabulary: dict[str, int], reverse: bool = False) -> Tokens:
    """Returns '1', one token for each residue and '2'; or with `reverse`, '2', the residues backwards and '1'.

    Other characters become X. The digits '1' and '2' in a text are among them; otherwise they would be read as the
    special tokens.
    """
    residues = [vocabulary.get(letter if letter.isalpha() else "X", vocabulary["X"]) for letter in sequence.upper()]
    start, end = [vocabulary["1"]], [vocabulary["2"]]
    return Tokens(end, residues[::-1], start) if reverse else Tokens(start, residues, end)


def _load(folder: Path) -> Any:
    settings = GPTJConfig(**read_settings(folder / "config.json", NAME, Settings).model_dump(), use_cache=False)
    weights = _converted(read_weights(folder, NAME), settings.n_embd)
    with torch.device("meta"):  # the largest model has 6.4 billion weights, which need no initial values
        model: Any = GPTJModel(settings)
    load_weights(model, weights, NAME, assign=True)
    for block in model.h:
        block.attn.embed_positions = create_sinusoidal_positions(settings.n_positions, settings.rotary_dim)
    return model


def _converted(weights: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Converts the published keys and layout to GPT-J's. Masks and the output head are left out."""
    converted: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        name = key.removeprefix("transformer.")
        if name.startswith("lm_head.") or name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if not name.endswith("qkv_proj.weight"):
            converted[name] = value
            continue
        if value.shape != (3 * width, width):
            raise UserError(f"{NAME}: {key} has the shape {list(value.shape)}, not {[3 * width, width]}")
        # Each core's piece holds its heads' queries, then values, then keys.
        pieces = value.reshape(CORES, 3, width // CORES, width)
        for index, kind in enumerate("qvk"):
            converted[name.replace("qkv_proj", f"{kind}_proj")] = pieces[:, index].reshape(width, width)
    return converted


def _vocabulary(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise UserError(f"{NAME}: no tokenizer.json in {path.parent}; the one published with ProGen2 belongs there")
    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # tokenizers raises nothing more specific
        raise UserError(f"{NAME}: {path}: not a tokenizer: {error}") from None
    if not {"1", "2", "X"} <= vocabulary.keys():
        raise UserError(f"{NAME}: {path}: not ProGen2's tokenizer, which has '1', '2' and 'X'")
    return vocabulary
