"""Names of architectures that people write where a family is wanted: `gpt2` is one that `transformers` loads."""

import re
from importlib.util import find_spec
from pathlib import Path

OTHER_NAMES = ("pythia", "smollm", "tinyllama", "minilm", "openelm", "codellama", "vicuna")
"""Well-known models over text whose architectures have other names."""


def family_of(name: str) -> str | None:
    """`transformers` or `transformers_vision`, where `name` is an architecture that it loads; None where it is none.

    Sizes, versions and spelling do not count: `llama3`, `Llama-2-7b` and `gpt-j` are found.
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
    """Whether transformers has a model of exactly this name."""
    return name in _models()


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _models() -> dict[str, Path]:
    """Names and folders of transformers' models. The library itself is not imported, which would take seconds."""
    found = find_spec("transformers")
    folder = Path(found.origin or "").parent / "models" if found else Path()
    return {path.parent.name: path.parent for path in folder.glob("*/configuration_*.py")}


def _family(folder: Path) -> str:
    """Models over images read pixels and write no text."""
    code = "".join(path.read_text() for path in folder.glob("modeling_*.py"))
    return "transformers_vision" if "pixel_values" in code and "GenerationMixin" not in code else "transformers"
