"""Builds models whose Python code comes with the checkpoint (`trust_remote_code`), with correct buffers.

`AutoModel.from_pretrained` of transformers 5 builds a model without memory and fills in the tensors of the checkpoint.
Buffers that the checkpoint lacks (`persistent=False`: tables of rotary angles, masks) then hold arbitrary memory,
unless the model's code initializes them in the way of transformers 5, which older code does not. Here the model is
built as its authors wrote it, and the weights are loaded afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from saelib.errors import UserError
from saelib.files.sealed import read_json
from saelib.sources.loading.checkpoint import read_weights

CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM")
"""Classes of a checkpoint in order of preference: some checkpoints have no class without a head."""


def brings_code(folder: Path) -> bool:
    """Tells whether `config.json` names a model class in the checkpoint's own code."""
    return not _auto_map(folder / "config.json").keys().isdisjoint(CLASSES)


def refuse_code_from_elsewhere(folder: Path, name: str) -> None:
    """Raises `UserError` if a checkpoint names code in another repository, which no commit or checksum pins."""
    for file in ("config.json", "tokenizer_config.json"):
        for reference in _auto_map(folder / file).values():
            if "--" in str(reference):
                raise UserError(
                    f"{name}: {folder / file} names code of another repository ({reference}); copy that code next to "
                    "it and remove everything up to '--' from the reference"
                )


def build_from_code(folder: Path, dtype: torch.dtype, name: str) -> tuple[Any, set[str]]:
    """Builds the model in `folder`, without any head, on the CPU.

    Returns:
        The model, and the names of the weights that its files lack.

    Raises:
        UserError: if `folder` has no weights. Errors of the checkpoint's code are passed on.
    """
    references = _auto_map(folder / "config.json")
    reference = next(references[kind] for kind in CLASSES if kind in references)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
    kind: Any = get_class_from_dynamic_module(reference, folder, local_files_only=True)
    with _nothing_to_tie():
        model = kind._from_config(config, dtype=dtype).base_model
    stored = read_weights(folder, name)
    prefix = _prefix(set(model.state_dict()), set(stored))
    weights = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    return model, set(model.load_state_dict(weights, strict=False).missing_keys)


def _auto_map(file: Path) -> dict[str, Any]:
    return read_json(file).get("auto_map") or {} if file.is_file() else {}


@contextmanager
def _nothing_to_tie() -> Iterator[None]:
    """Stops transformers from tying weights: code from before version 5 does not list them, which is an error there.

    Nothing is lost, because all weights are loaded from the checkpoint.
    """
    base: Any = PreTrainedModel
    base.all_tied_weights_keys = {}
    try:
        yield
    finally:
        del base.all_tied_weights_keys


def _prefix(own: set[str], stored: set[str]) -> str:
    """Returns the prefix of the model's weights in a checkpoint that also has heads, such as `transformer.`."""
    some = max(sorted(own), key=len)
    candidates = {key.removesuffix(some) for key in stored if key.endswith(some)} or {""}
    return max(sorted(candidates), key=lambda prefix: sum(prefix + key in stored for key in own))
