"""AntiBERTy (Ruffolo et al. 2021, arXiv:2112.07782): a BERT over antibody residues, each of them a token."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import BertConfig, BertModel

from saelib.config.sources import AntibertySource
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.base import torch_device, torch_dtype
from saelib.sources.tokens import Tokens, TokenSource

CHECKPOINT = "AntiBERTy_md_smooth"
PREFIX = "bert."
"""Prefix of the encoder's weights; the other weights belong to the heads of the training tasks."""


def open_source(config: AntibertySource, device: str, dtype: str) -> TokenSource:
    """Loads the folder `trained_models` of the package antiberty: `vocab.txt` and `AntiBERTy_md_smooth/`.

    The checkpoint is a plain BERT, so the package's own code is not needed. Only tensors are read from its `.bin`.

    Raises:
        UserError: if files or weights are missing, or `config.max_length` exceeds the model's positions.
    """
    folder = fetch(config.weights)
    target = torch_device(device)
    model: Any = _load(folder / CHECKPOINT)
    limit = model.config.max_position_embeddings
    if config.max_length > limit:
        raise UserError(f"AntiBERTy: max_length is {config.max_length}, but the model reads at most {limit} tokens")
    vocabulary = _vocabulary(folder / "vocab.txt")
    return TokenSource(
        "AntiBERTy",
        config,
        model.to(target, torch_dtype(dtype)),
        list(model.encoder.layer),
        lambda sequence: tokenize(sequence, vocabulary),
        d_in=model.config.hidden_size,
        pad_id=vocabulary["[PAD]"],
    )


def tokenize(sequence: str, vocabulary: dict[str, int]) -> Tokens:
    """Returns [CLS], one token for each residue ([UNK] for letters outside the 20 amino acids), and [SEP]."""
    residues = [vocabulary.get(letter, vocabulary["[UNK]"]) for letter in sequence.upper()]
    return Tokens([vocabulary["[CLS]"]], residues, [vocabulary["[SEP]"]])


def _load(checkpoint: Path) -> BertModel:
    try:
        model = BertModel(BertConfig.from_json_file(checkpoint / "config.json"), add_pooling_layer=False)
        state = torch.load(checkpoint / "pytorch_model.bin", map_location="cpu", weights_only=True)
        encoder = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
        missing = model.load_state_dict(encoder, strict=False).missing_keys
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        raise UserError(f"{checkpoint}: not an AntiBERTy checkpoint: {str(error).strip().splitlines()[0]}") from None
    if missing:
        raise UserError(
            f"{checkpoint}: not an AntiBERTy checkpoint: lacks {len(missing)} weights: {', '.join(missing[:3])}"
        )
    return model


def _vocabulary(path: Path) -> dict[str, int]:
    try:
        return {word: number for number, word in enumerate(path.read_text().split())}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; AntiBERTy needs the package's folder 'trained_models'") from None
