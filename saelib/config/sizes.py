"""How many blocks a model has and how wide it is, by what files on this machine say, without loading it."""

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
"""What a config.json calls them; the first that is there counts."""
CONFIGS = {"stable_diffusion_3": "transformer/config.json", "antiberty": "AntiBERTy_md_smooth/config.json"}
"""Where a family's config.json lies, other than at the top."""
ESM2 = {6: 320, 12: 480, 30: 640, 33: 1280, 36: 2560, 48: 5120}
"""Blocks and widths of the published ESM2; fair-esm's names of files begin with `esm2_t` and the blocks."""


class Size(NamedTuple):
    """Both are None where nothing on this machine says."""

    blocks: int | None = None
    width: int | None = None
    where: str = ""
    """What says so, for messages."""


def known_size(source: SourceConfig) -> Size:
    """What is known of a model before its weights are loaded: what its files say, else what was published of it."""
    said = stated_size(source)
    match source:
        case AlphaFold3Source():
            return said._replace(width=384)
        case Esm3Source():
            return Size(48, 1536)  # ESM3-open, the only one whose weights can be had
        case SpliceaiSource():
            return Size(16, 32)  # SpliceAI-10k
        case Esm2Source():
            return _esm2(source.weights)
    return said


def stated_size(source: SourceConfig) -> Size:
    """What a model's files on this machine and its own config say. Uses no network; unreadable files say nothing."""
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
    """All numbers that a layer of the model can have, 0 among them; None where that is not known."""
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
    """An encoder-decoder has two numbers of blocks. A model that also sees has one of its own for text."""
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
    """The first of the keys that is there, where it holds a number of something."""
    value = next((settings[key] for key in keys if key in settings), None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
