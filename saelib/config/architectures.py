"""Recognizes architectures that people write in place of a family: `transformers` is the family that loads `gpt2`."""

import re
from importlib.util import find_spec
from pathlib import Path

OTHER_NAMES = ("pythia", "smollm", "tinyllama", "minilm", "openelm", "codellama", "vicuna")
"""Well-known models over text whose architectures have other names."""


def family_of(name: str) -> str | None:
    """Returns the family that loads an architecture, `transformers` or `transformers_vision`; None for other names.

    Sizes, versions and spelling make no difference: `llama3`, `Llama-2-7b` and `gpt-j` are found.
    """
    folders = _models()
    exact = folders.get(name.lower().replace("-", "_"))
    if exact is not None:
        return _family(exact)
    letters = _letters(name)
    if letters.startswith(OTHER_NAMES):
        return "transformers"
    begins = [one for one in folders if len(_letters(one)) > 2 and letters.startswith(_letters(one))]
    return _family(folders[max(begins, key=len)]) if begins else None


def is_architecture(name: str) -> bool:
    """Checks whether transformers has a model of exactly this name."""
    return name in _models()


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _models() -> dict[str, Path]:
    """Returns the names and folders of transformers' models, without importing the library, which takes seconds."""
    found = find_spec("transformers")
    folder = Path(found.origin or "").parent / "models" if found else Path()
    return {path.parent.name: path.parent for path in folder.glob("*/configuration_*.py")}


def _family(folder: Path) -> str:
    """Returns the family of a model from its code: vision models read pixels and generate no text."""
    code = "".join(path.read_text() for path in folder.glob("modeling_*.py"))
    return "transformers_vision" if "pixel_values" in code and "GenerationMixin" not in code else "transformers"
