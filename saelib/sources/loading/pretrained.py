"""Checkpoints that transformers can load: whole or refused, from local files alone, and never by unpickling objects."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from packaging.version import Version
from safetensors import SafetensorError
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from saelib.errors import UserError
from saelib.sources.base import torch_device, torch_dtype
from saelib.sources.loading.remote_code import brings_code, build_from_code, refuse_code_from_elsewhere
from saelib.sources.loading.user_code import user_code

BLOCKS = (
    "layers",  # Llama, Mistral, Qwen, Gemma, GPT-NeoX (Pythia), ModernBERT, Mamba, ViT, DeiT, BEiT
    "h",  # GPT-2, GPT-J, Bloom, Falcon
    "encoder.layer",  # BERT, RoBERTa, ELECTRA, DeBERTa, MPNet, ESM, DINOv2
    "transformer.layer",  # DistilBERT
    "decoder.layers",  # OPT
    "blocks",  # MPT, RWKV
    "model.layer",  # DINOv3
    "encoder.layers",  # the image half of CLIP and SigLIP
    "language_model.layers",  # the text half of models that also see
)
"""Where architectures keep the list of their blocks."""
# Parts behind the blocks, which checkpoints of other tasks lack: their random values reach no layer.
BEHIND_THE_BLOCKS = ("pooler.", "contact_head.")

# What loading raises where files are missing, broken or contradict each other, or a package is missing.
MISTAKES = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)


def load_model(
    name: str,
    folder: Path,
    device: str,
    dtype: str,
    *,
    device_map: str | None = None,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A model with every weight that its layers need, on its device or devices.

    Args:
        name: what messages call the model.
        folder: `config.json` and the weights.
        device: where it goes, unless `device_map` spreads it.
        dtype: of the weights and the forward pass.
        device_map: how accelerate is to spread it over the machine's GPUs.
        gguf_file: the weights within `folder`, where these are GGUF.
        trust_remote_code: run the Python in `folder`, where its `config.json` names any.

    Raises:
        UserError: where the device is missing, the files are not a whole checkpoint of a known architecture, or
            transformers is older than 5.
    """
    check_version(name)
    target = torch_device(device)
    if trust_remote_code and brings_code(folder):
        refuse_code_from_elsewhere(folder, name)
        with user_code(f"{name}: the checkpoint's own code"), quiet_loading():
            model, missing = build_from_code(folder, torch_dtype(dtype), name)
    else:
        options: dict[str, Any] = {"dtype": torch_dtype(dtype), "output_loading_info": True}
        if device_map:
            options["device_map"] = device_map
        model, info = from_pretrained(AutoModel, name, folder, gguf_file, **options)
        missing = info["missing_keys"]
    missing = sorted(key for key in missing if not key.startswith(BEHIND_THE_BLOCKS))
    if missing:
        raise UserError(
            f"{name}: the checkpoint lacks {len(missing)} weights of {type(model).__name__}: {', '.join(missing[:3])}"
        )
    return model if device_map else model.to(target)


def from_pretrained(
    auto: Any, name: str, folder: Path, gguf_file: str | None = None, trust_remote_code: bool = False, **options: Any
) -> Any:
    """`auto.from_pretrained(folder)`, with one message for whatever may be wrong with the files.

    Raises:
        UserError: where they cannot be loaded, or hold pickled objects.
    """
    if gguf_file:
        if not (folder / gguf_file).is_file():
            raise UserError(f"{name}: no file '{gguf_file}' in {folder}")
        options["gguf_file"] = gguf_file
    loader = auto.__name__
    if trust_remote_code:
        refuse_code_from_elsewhere(folder, name)
    elif brings_code(folder):
        loader += ", which has not run the code that the checkpoint brings,"
    with _one_line_for_what_goes_wrong(name, loader, folder), quiet_loading():
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code, **options)


def check_version(name: str) -> None:
    """Raise `UserError` where transformers is older than 5: it takes other options and renames other weights."""
    if Version(transformers.__version__).major < 5:
        raise UserError(f"{name}: needs transformers 5, but {sys.prefix} has {transformers.__version__}")


def find_blocks(model: Any, name: str) -> list[torch.nn.Module]:
    """The residual blocks of a transformers model, in order; `name` is what messages call it.

    Raises:
        UserError: for an encoder-decoder, which has two residual streams, or where no known place holds them.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(
            f"{name}: {type(model).__name__} is an encoder-decoder; for one of its stacks use family: module"
        )
    for path in BLOCKS:
        blocks: Any = model
        for part in path.split("."):
            blocks = getattr(blocks, part, None)
        if isinstance(blocks, torch.nn.ModuleList):
            return list(blocks)
    raise UserError(
        f"{name}: {type(model).__name__} keeps its blocks in none of the known places ({', '.join(BLOCKS)}); "
        "use family: module, whose `hooks` says where they are (or plugin, where layers share blocks, as ALBERT's do)"
    )


def width(model: Any, name: str) -> int:
    """Of the residual stream. Raises `UserError` where the model's config does not tell."""
    found = getattr(model.config.get_text_config(), "hidden_size", None)
    if found is None:
        raise UserError(f"{name}: the config of {type(model).__name__} has no hidden_size; use family: module")
    return int(found)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars in log files, and no warnings about weights that `load_model` checks itself."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        # The GGUF reader's bar has no switch of its own. Loggers keep the stderr they were given.
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def _one_line_for_what_goes_wrong(name: str, loader: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except UnpicklingError:
        raise UserError(
            f"{name}: the weights are pickled objects, which may run code; convert them to safetensors"
        ) from None
    except MISTAKES as error:
        lines = (str(error).strip() or type(error).__name__).splitlines()
        reason = " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])
        raise UserError(f"{name}: {loader} cannot load {folder}: {reason}") from None
