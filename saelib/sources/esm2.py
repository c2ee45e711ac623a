"""ESM2 (Lin et al. 2023, doi:10.1126/science.ade2574) in the format of the package fair-esm: one `.pt` file."""

import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from saelib.config.sources import Esm2Source
from saelib.environments import require_packages
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.base import first_of, torch_device, torch_dtype
from saelib.sources.loading.checkpoint import read_tensors
from saelib.sources.networks.rotary import Rotary
from saelib.sources.tokens import Tokens, TokenSource

NAME = "ESM2"
TRAINED_LENGTH = 1026
"""Most tokens in training, including special ones. Longer proteins were cut, but the model itself accepts them."""


def open_source(config: Esm2Source, device: str, dtype: str) -> TokenSource:
    """Loads a checkpoint of fair-esm, such as `esm2_t33_650M_UR50D.pt`. Its contact head is not needed.

    Raises:
        UserError: if fair-esm is not installed, the file is not such a checkpoint, or `config.max_length` is more than
            the model was trained on.
    """
    require_packages("esm2")
    if config.max_length > TRAINED_LENGTH:
        raise UserError(f"{NAME}: max_length is {config.max_length}, but it was trained on {TRAINED_LENGTH} tokens")
    target = torch_device(device)
    model, alphabet = _load(fetch(config.weights))
    model = model.to(target, torch_dtype(dtype))
    for layer in model.layers:
        layer.self_attn.rot_emb = Rotary()  # fair-esm's own computes the angles in the dtype of the weights
    return TokenSource(
        NAME,
        config,
        model,
        list(model.layers),
        lambda sequence: tokenize(sequence, alphabet.to_dict()),
        d_in=model.embed_dim,
        pad_id=alphabet.padding_idx,
        call=lambda ids, mask: model(ids),  # it finds the padding by its id
        stream=lambda value: first_of(value).transpose(0, 1),  # inside the model, the first axis is tokens
    )


def tokenize(sequence: str, vocabulary: dict[str, int]) -> Tokens:
    """Returns <cls>, one token for each residue (X for letters that the alphabet lacks), and <eos>."""
    residues = [vocabulary.get(letter, vocabulary["X"]) for letter in sequence.upper()]
    return Tokens([vocabulary["<cls>"]], residues, [vocabulary["<eos>"]])


def _load(path: Path) -> tuple[Any, Any]:
    from esm.pretrained import load_model_and_alphabet_core

    if path.is_dir():
        raise UserError(
            f"{NAME}: {path} is a folder; family esm2 reads one .pt file of fair-esm (name the file), "
            "and the format of the hub is read by family transformers"
        )
    # Real checkpoints keep their settings in a Namespace, which holds nothing but values.
    data = read_tensors(path, NAME, allowed=[Namespace])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Regression weights not found")
            return load_model_and_alphabet_core("esm2", data)
    # fair-esm raises these for other files, because it checks only the names of weights.
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(f"{NAME}: {path}: not a checkpoint of fair-esm's ESM2: {' '.join(lines)[:300]}") from None
