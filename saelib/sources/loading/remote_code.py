"""Models whose Python comes with the checkpoint (`trust_remote_code`), built so that transformers 5 gets them right.

`AutoModel.from_pretrained` builds a model without memory and fills in what the checkpoint holds. Buffers that the
checkpoint does not hold (`persistent=False`: tables of rotary angles, masks) are then whatever was in memory, unless
the code knows how transformers 5 wants them set; code of others does not. Here a model is built as its authors
wrote it, and the weights are then put in.
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
"""Which of a checkpoint's classes to take, the first that is there: some bring none without a head."""


def brings_code(folder: Path) -> bool:
    """Whether `config.json` names a model class of the checkpoint's own."""
    return not _auto_map(folder / "config.json").keys().isdisjoint(CLASSES)


def refuse_code_from_elsewhere(folder: Path, name: str) -> None:
    """Raise `UserError` where a checkpoint names code of another repository, which no commit or checksum pins."""
    for file in ("config.json", "tokenizer_config.json"):
        for reference in _auto_map(folder / file).values():
            if "--" in str(reference):
                raise UserError(
                    f"{name}: {folder / file} names code of another repository ({reference}); copy that code beside it "
                    "and take away what stands before '--'"
                )


def build_from_code(folder: Path, dtype: torch.dtype, name: str) -> tuple[Any, set[str]]:
    """The model in `folder`, without any head, on the processor; and the names of weights that its files lack.

    Raises:
        UserError: where `folder` has no weights. What its code raises is raised too.
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
    """Code from before transformers 5 ties weights that it has not listed, which then is an error; all are loaded."""
    base: Any = PreTrainedModel
    base.all_tied_weights_keys = {}
    try:
        yield
    finally:
        del base.all_tied_weights_keys


def _prefix(own: set[str], stored: set[str]) -> str:
    """What stands before the names of a model's weights in a checkpoint that has heads as well: `transformer.`."""
    some = max(sorted(own), key=len)
    candidates = {key.removesuffix(some) for key in stored if key.endswith(some)} or {""}
    return max(sorted(candidates), key=lambda prefix: sum(prefix + key in stored for key in own))
