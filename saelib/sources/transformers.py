"""Any text model that transformers' `AutoModel` loads: decoders and encoders, safetensors, `.bin` or GGUF."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from saelib.config.sources import TransformersSource
from saelib.errors import UserError
from saelib.fetch import describe, fetch
from saelib.sources.base import torch_device, torch_dtype
from saelib.sources.tokens import Tokens, TokenSource

BLOCKS = (
    "layers",  # Llama, Mistral, Qwen, Gemma, GPT-NeoX (Pythia), ModernBERT
    "h",  # GPT-2, GPT-J, Bloom, Falcon
    "encoder.layer",  # BERT, RoBERTa, ELECTRA, DeBERTa, MPNet, ESM
    "transformer.layer",  # DistilBERT
    "decoder.layers",  # OPT
    "language_model.layers",  # the text half of models that also see
)
"""Where architectures keep the list of their blocks."""
# Parts behind the blocks, which checkpoints of other tasks lack: their random values reach no layer.
BEHIND_THE_BLOCKS = ("pooler.", "contact_head.")


def open_source(config: TransformersSource, device: str, dtype: str) -> TokenSource:
    """Load model and tokenizer. Code from the checkpoint is never run, and pickled objects are never built.

    Raises:
        UserError: where the files are not a whole checkpoint, its architecture is unknown, or its texts are shorter
            than `config.max_length`.
    """
    name = f"transformers model ({describe(config.weights)})"
    folder = fetch(config.weights)
    target = torch_device(device)
    with quiet_loading():
        tokenizer = _load(AutoTokenizer, folder, config.gguf_file, name)
        model, info = _load(
            AutoModel, folder, config.gguf_file, name, dtype=torch_dtype(dtype), output_loading_info=True
        )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(BEHIND_THE_BLOCKS))
    if missing:
        raise UserError(f"{name}: the checkpoint lacks {len(missing)} weights of {type(model).__name__}: {missing[:3]}")
    _check_length(config.max_length, model, tokenizer, name)
    model.config.use_cache = False
    return TokenSource(
        name,
        config,
        model.to(target),
        find_blocks(model, name),
        lambda text: _tokens(tokenizer, text),
        d_in=model.config.get_text_config().hidden_size,
        pad_id=tokenizer.pad_token_id or 0,
    )


def find_blocks(model: Any, name: str) -> list[torch.nn.Module]:
    """The residual blocks of a transformers model, in order; `name` is what messages call it.

    Raises:
        UserError: for an encoder-decoder, which has two residual streams, or where no known place holds them.
    """
    if model.config.is_encoder_decoder:
        raise UserError(f"{name}: {type(model).__name__} is an encoder-decoder; models with one stack are supported")
    for path in BLOCKS:
        blocks: Any = model
        for part in path.split("."):
            blocks = getattr(blocks, part, None)
        if isinstance(blocks, torch.nn.ModuleList):
            return list(blocks)
    raise UserError(
        f"{name}: {type(model).__name__} keeps its blocks in none of the known places ({', '.join(BLOCKS)})"
    )


def _load(auto: Any, folder: Path, gguf_file: str | None, name: str, **options: Any) -> Any:
    if gguf_file:
        if not (folder / gguf_file).is_file():
            raise UserError(f"{name}: no file '{gguf_file}' in {folder}")
        options["gguf_file"] = gguf_file
    try:
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except UnpicklingError:
        raise UserError(
            f"{name}: the weights are pickled objects, which may run code; convert them to safetensors"
        ) from None
    # KeyError, RuntimeError: configs and weights that contradict each other.
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: {auto.__name__} cannot load {folder}: {reason}") from None


def _tokens(tokenizer: Any, text: str) -> Tokens:
    encoded = tokenizer(text, return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    start = next((i for i, flag in enumerate(special) if not flag), len(ids))
    stop = next((i for i in range(len(ids), start, -1) if not special[i - 1]), start)
    return Tokens(ids[:start], ids[start:stop], ids[stop:])


def _check_length(max_length: int, model: Any, tokenizer: Any, name: str) -> None:
    """Some models run past the positions they were trained on without an error."""
    limit = min(
        getattr(model.config.get_text_config(), "max_position_embeddings", max_length), tokenizer.model_max_length
    )
    for module_name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding's, and so have fewer than rows.
        padding = getattr(module, "padding_idx", None)
        if module_name.endswith("position_embeddings") and padding is not None:
            limit = min(limit, module.num_embeddings - padding - 1)
    if max_length > limit:
        raise UserError(f"{name}: max_length is {max_length}, but the model reads at most {limit} tokens")


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars in log files, and no warnings about weights that `open_source` checks itself."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        # The GGUF reader's bar has no switch of its own. Loggers keep the stderr they were given.
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
