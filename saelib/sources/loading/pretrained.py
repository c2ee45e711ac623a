"""Loads checkpoints by transformers: only from local files, only complete ones, and never by unpickling objects."""

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
"""Attributes in which architectures keep the list of their blocks."""

BEHIND_THE_BLOCKS = ("pooler.", "contact_head.")
"""Parts after the blocks. Checkpoints of other tasks lack them, and no layer depends on their random values."""

# Loading raises these if files are missing, broken or contradict each other, or if a package is missing.
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
    """Loads a model with every weight that its layers need, and puts it on its device or devices.

    Args:
        name: The name of the model in messages.
        folder: The folder with `config.json` and the weights.
        device: The device to put it on, unless `device_map` spreads it.
        dtype: Precision of the weights and of the forward pass.
        device_map: How accelerate spreads it over the machine's GPUs.
        gguf_file: The file in `folder` with the weights, if they are GGUF.
        trust_remote_code: Run the Python code in `folder`, if `config.json` names any.

    Raises:
        UserError: if the device is missing, the files are not a complete checkpoint of a known architecture, or
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
    """Calls `auto.from_pretrained(folder)` and raises one clear error for whatever is wrong with the files.

    Raises:
        UserError: if the files cannot be loaded, or hold pickled objects.
    """
    if gguf_file:
        if not (folder / gguf_file).is_file():
            raise UserError(f"{name}: no file '{gguf_file}' in {folder}")
        options["gguf_file"] = gguf_file
    loader = auto.__name__
    if trust_remote_code:
        refuse_code_from_elsewhere(folder, name)
    elif brings_code(folder):
        loader += ", which has not run the checkpoint's own code,"
    with _one_line_for_what_goes_wrong(name, loader, folder), quiet_loading():
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code, **options)


def check_version(name: str) -> None:
    """Raises `UserError` if transformers is older than 5, whose options and names of weights differ."""
    if Version(transformers.__version__).major < 5:
        raise UserError(f"{name}: needs transformers 5, but {sys.prefix} has {transformers.__version__}")


def find_blocks(model: Any, name: str) -> list[torch.nn.Module]:
    """Returns the residual blocks of a transformers model, in order. Messages call the model `name`.

    Raises:
        UserError: for an encoder-decoder, which has two residual streams, or if the blocks are in no known attribute.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(
            f"{name}: {type(model).__name__} is an encoder-decoder; to read one of its stacks, use family: module"
        )
    for path in BLOCKS:
        blocks: Any = model
        for part in path.split("."):
            blocks = getattr(blocks, part, None)
        if isinstance(blocks, torch.nn.ModuleList):
            return list(blocks)
    raise UserError(
        f"{name}: {type(model).__name__} keeps its blocks in none of the known places ({', '.join(BLOCKS)}); "
        "use family: module, whose `hooks` says where they are (or plugin, if layers share blocks, as ALBERT's do)"
    )


def width(model: Any, name: str) -> int:
    """Returns the width of the residual stream. Raises `UserError` if the model's config does not have it."""
    found = getattr(model.config.get_text_config(), "hidden_size", None)
    if found is None:
        raise UserError(f"{name}: the config of {type(model).__name__} has no hidden_size; use family: module")
    return int(found)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keeps progress bars out of log files, and silences warnings about weights that `load_model` checks itself."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        # The progress bar of the GGUF reader cannot be turned off. Loggers keep the stderr that they already have.
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
