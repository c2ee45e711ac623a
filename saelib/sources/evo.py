"""Evo-1 (Nguyen et al. 2024): StripedHyena over the bytes of DNA, run by our own `networks.striped_hyena`."""

import logging
from pathlib import Path

import torch
from pydantic import ValidationError

from saelib.config.sources import EvoSource
from saelib.errors import UserError
from saelib.fetch import describe, fetch
from saelib.files.sealed import read_json
from saelib.sources.base import torch_device, torch_dtype
from saelib.sources.loading.checkpoint import load_weights, read_weights
from saelib.sources.networks.striped_hyena import Architecture, StripedHyena
from saelib.sources.tokens import Tokens, TokenSource

log = logging.getLogger(__name__)

PREFIX = "backbone."
"""Prefix of the published checkpoints' parameters."""
NO_LAYER_READS = ("norm.scale", "unembed.weight")
"""Parameters after the last block."""
TABLE = ".rotary_emb.inv_freq"
"""Suffix of a table that the network computes itself."""
FLOAT32_ALWAYS = (".poles", ".residues")
PAD_ID = 1


def open_source(config: EvoSource, device: str, dtype: str) -> TokenSource:
    """Loads a folder of the Hugging Face hub with `config.json` and weights. No code that comes with them is run.

    A token is a byte of the text, and there are no special tokens. For `togethercomputer/evo-1-8k-base`, use revision
    `1.1_fix`: the first release has permuted projections, which give wrong numbers without an error. With bfloat16,
    poles and residues of the filters stay float32, as in the model's own code.

    Raises:
        UserError: if the files are not a complete checkpoint of Evo-1.
    """
    name = f"Evo ({describe(config.weights)})"
    folder = fetch(config.weights)
    target = torch_device(device)
    architecture = _architecture(folder / "config.json")
    if config.max_length > architecture.max_seqlen:
        log.warning(
            "%s: max_length %d is beyond the %d tokens in its config.json", name, config.max_length,
            architecture.max_seqlen,
        )  # fmt: skip
    with torch.device("meta"):
        model = StripedHyena(architecture)
    weights = {
        key: value.to(target, torch.float32 if key.endswith(FLOAT32_ALWAYS) else torch_dtype(dtype))
        for key, value in _backbone(folder, name).items()
    }
    load_weights(model, weights, name, assign=True)
    return TokenSource(
        name,
        config,
        model,
        list(model.blocks),
        lambda text: Tokens([], list(text.encode()), []),
        d_in=architecture.hidden_size,
        pad_id=PAD_ID,
        call=lambda ids, mask: model(ids),
    )


def _architecture(path: Path) -> Architecture:
    try:
        return Architecture.model_validate(read_json(path))
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"])) or "the file"
        raise UserError(f"{path}: not the config of an Evo-1 model: {where}: {found['msg']}") from None


def _backbone(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Reads the parameters that some layer depends on, under the network's names."""
    weights = {key.removeprefix(PREFIX): value for key, value in read_weights(folder, name).items()}
    return {key: v for key, v in weights.items() if key not in NO_LAYER_READS and not key.endswith(TABLE)}
