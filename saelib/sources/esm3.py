"""ESM3-open (Hayes et al. 2025, doi:10.1126/science.ads0018), run by the package esm on sequences only.

It runs in its own environment (`saelib.environments`). All other tracks, such as structure, keep the package's own
values for "unknown".
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from saelib.config.sources import Esm3Source
from saelib.environments import require_packages
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.base import torch_device, torch_dtype
from saelib.sources.loading.checkpoint import load_weights, read_tensors
from saelib.sources.tokens import Tokens, TokenSource

NAME = "ESM3"
CHAIN_BREAK = "|"
"""A special token that is written in sequences: it ends a chain and is not a residue."""
WEIGHTS = "esm3_sm_open_v1.pth"
HEAD_WIDTH = 64
"""Width of a head in every model of the package; it cannot be read from the weights."""
TRAINED_LENGTH = 2048
"""Most tokens in training, including special ones; the model itself accepts more."""


def open_source(config: Esm3Source, device: str, dtype: str) -> TokenSource:
    """Loads `esm3_sm_open_v1.pth`: the file itself, or one anywhere in the folder that holds the hub's repository.

    Raises:
        UserError: if the package is not installed, the weights are missing or belong to another model, or
            `config.max_length` is more than the model was trained on.
    """
    require_packages("esm3")
    if config.max_length > TRAINED_LENGTH:
        raise UserError(f"{NAME}: max_length is {config.max_length}, but it was trained on {TRAINED_LENGTH} tokens")
    target, kind = torch_device(device), torch_dtype(dtype)
    model = _load(_find(fetch(config.weights)), kind).to(target)
    vocabulary = model.tokenizers.sequence.get_vocab()

    def call(ids: torch.Tensor, mask: torch.Tensor) -> None:
        # A token attends to tokens with its own sequence id; without ids, it would attend to padding. Some parts of
        # the model stay float32, so each operation has to cast its inputs, as it does in the package.
        with torch.autocast(target.type, kind, enabled=kind != torch.float32):
            model(sequence_tokens=ids, sequence_id=torch.where(mask.bool(), 0, -1))

    return TokenSource(
        NAME,
        config,
        model,
        list(model.transformer.blocks),
        lambda sequence: tokenize(sequence, vocabulary),
        d_in=model.transformer.norm.weight.numel(),
        pad_id=vocabulary["<pad>"],
        call=call,
    )


def tokenize(sequence: str, vocabulary: dict[str, int]) -> Tokens:
    """Returns <cls>, one token for each residue (X for unknown letters), and <eos>; '|' between chains is left out."""
    residues = [vocabulary.get(letter, vocabulary["X"]) for letter in sequence.upper()]
    breaks = frozenset(place for place, letter in enumerate(sequence.upper()) if letter == CHAIN_BREAK)
    return Tokens([vocabulary["<cls>"]], residues, [vocabulary["<eos>"]], breaks)


def sizes(weights: dict[str, torch.Tensor]) -> dict[str, int]:
    """Returns the arguments of `esm.models.esm3.ESM3` for these weights; the package knows only those of its own.

    Raises:
        KeyError: if the weights are not those of an ESM3.
    """
    width = weights["transformer.norm.weight"].numel()
    return {
        "d_model": width,
        "n_heads": width // HEAD_WIDTH,
        "v_heads": weights["transformer.blocks.0.geom_attn.distance_scale_per_head"].numel(),
        "n_layers": len({key.split(".")[2] for key in weights if key.startswith("transformer.blocks.")}),
    }


def _load(path: Path, dtype: torch.dtype) -> Any:
    from esm.models.esm3 import ESM3  # pyright: ignore[reportMissingImports]
    from esm.tokenization import EsmSequenceTokenizer  # pyright: ignore[reportMissingImports]

    weights = read_tensors(path, NAME)
    try:
        arguments = sizes(weights)
    except (KeyError, AttributeError):  # a name is missing, or is not a tensor
        raise UserError(f"{NAME}: {path}: not the weights of an ESM3") from None
    # Structure and function are neither read nor written, so their parts, which would download files, are left out.
    others = dict.fromkeys(("structure_encoder_fn", "structure_decoder_fn", "function_decoder_fn"))
    with torch.device("meta"):
        model = ESM3(**arguments, **others, tokenizers=SimpleNamespace(sequence=EsmSequenceTokenizer()))
    load_weights(model, weights, NAME, assign=True)
    model.to(dtype=dtype)
    for block in model.transformer.blocks:
        # The angles are computed again, in float32, whatever the dtype of the weights.
        block.attn.rotary.reset_parameters()
        # Without a structure this attention adds exactly zero, but needs memory for tokens^2 * 768 numbers.
        block.use_geom_attn = False
    return model


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.rglob(WEIGHTS))
    if len(found) != 1:
        raise UserError(f"{NAME}: {path}: should hold one file '{WEIGHTS}', but holds {len(found)}")
    return found[0]
