"""Finds a model's number of blocks and its width in files on this machine, without loading the model."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from saelib.config.families import AlphaFold3Source, Esm2Source, Esm3Source, SpliceaiSource
from saelib.config.files import FilesConfig
from saelib.config.gguf import read_gguf
from saelib.config.sources import ArraysSource, ModuleSource, PluginSource, SourceConfig, TransformersSource
from saelib.errors import UserError
from saelib.files.sealed import read_json

BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
WIDTH = ("hidden_size", "n_embd", "d_model", "dim", "embed_dim")
"""Their names in a config.json; the first one present counts."""
CONFIGS = {"stable_diffusion_3": "transformer/config.json", "antiberty": "AntiBERTy_md_smooth/config.json"}
"""Family -> the place of its config.json, if that is not the top of the folder."""
ESM2 = {6: 320, 12: 480, 30: 640, 33: 1280, 36: 2560, 48: 5120}
"""Number of blocks -> width of the published ESM2 models; fair-esm's file names begin with `esm2_t` and the number."""


class Size(NamedTuple):
    """A model's number of blocks and its width; None if nothing on this machine says."""

    blocks: int | None = None
    width: int | None = None
    where: str = ""
    """The file or setting that says so, for messages."""


def known_size(source: SourceConfig) -> Size:
    """Returns the size of a model before its weights are loaded, from its files or from published facts."""
    said = stated_size(source)
    match source:
        case AlphaFold3Source():
            return said._replace(width=384)
        case Esm3Source():
            return Size(48, 1536)  # ESM3-open, the only one whose weights are published
        case SpliceaiSource():
            return Size(16, 32)  # SpliceAI-10k
        case Esm2Source():
            return _esm2(source.weights)
    return said


def stated_size(source: SourceConfig) -> Size:
    """Returns the size that a model's files on this machine or its own config state.

    It uses no network, and ignores files that it cannot read.
    """
    if isinstance(source, AlphaFold3Source):
        return Size(0, None, "family alphafold3")
    if isinstance(source, ModuleSource) and isinstance(source.hooks, tuple):
        return Size(len(source.hooks), None, "source.hooks")
    weights = getattr(source, "weights", None)
    folder = _here(weights) if weights is not None and not isinstance(source, ModuleSource | PluginSource) else None
    if folder is None or not folder.is_dir():
        return Size()
    try:
        if isinstance(source, TransformersSource) and source.gguf_file:
            return _gguf(folder / source.gguf_file)
        return _config(folder / CONFIGS.get(source.family, "config.json"), source.family)
    except (OSError, UserError, ValueError, RecursionError):
        return Size()


def every_layer(source: SourceConfig, blocks: int | None) -> tuple[int, ...] | None:
    """Returns the numbers of all layers of the model, 0 included; None if they are not known."""
    if isinstance(source, ArraysSource):
        return tuple(sorted(source.files))
    last = blocks if blocks is not None else known_size(source).blocks
    return None if last is None else tuple(range(last + 1))


def _here(files: FilesConfig) -> Path | None:
    from saelib.fetch import local  # heavy, and needed for few configs

    return local(files)


def _esm2(files: Any) -> Size:
    named = " ".join(str(getattr(files, key, "")) for key in ("path", "url", "inside"))
    found = re.search(r"\besm2_t(\d+)_", named)
    blocks = int(found[1]) if found else 0
    return Size(blocks, ESM2[blocks]) if blocks in ESM2 else Size()


def _gguf(path: Path) -> Size:
    found = read_gguf(path, frozenset({"block_count", "embedding_length"}))
    return Size(_count(found, ("block_count",)), _count(found, ("embedding_length",)), str(path))


def _config(path: Path, family: str) -> Size:
    """Reads the size in a config.json.

    An encoder-decoder has two numbers of blocks, so its size is not known. A model over text and images has a part for
    each.
    """
    settings: Any = read_json(path) if path.is_file() else {}
    if not isinstance(settings, dict) or settings.get("is_encoder_decoder"):
        return Size()
    part = settings.get("vision_config" if family == "transformers_vision" else "text_config", settings)
    if not isinstance(part, dict):
        return Size()
    width = _count(part, WIDTH)
    if family == "stable_diffusion_3":
        heads, head_width = (_count(part, (key,)) for key in ("num_attention_heads", "attention_head_dim"))
        width = heads * head_width if heads and head_width else None
    return Size(_count(part, BLOCKS), width, str(path))


def _count(settings: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    """Returns the value of the first key that is present, if it is a positive integer."""
    value = next((settings[key] for key in keys if key in settings), None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
