"""Finds what this machine has: packages of families and of pip extras, the Python that runs a family, CPUs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from saelib.errors import UserError

ENVIRONMENTS = {"esm3": "esm3"}
"""Family -> its environment below `.envs`, for families whose packages conflict with all others: ESM3's package `esm`
has the same import name as ESM2's."""


class Packages(NamedTuple):
    """Packages that a family needs in addition to saelib."""

    distributions: tuple[str, ...]
    """Names that pip knows; import names would not do, because two different packages are imported as `esm`."""
    install: str
    """The command that installs them."""


PACKAGES = {
    "esm2": Packages(("fair-esm",), "pip install 'saelib[esm2]'"),
    "esm3": Packages(("esm",), "make env-esm3"),
    "stable_diffusion_3": Packages(("diffusers",), "pip install 'saelib[sd3]'"),
}

EXTRAS = {
    "Bio": "annotations",
    "torch": "train",
    "PIL": "models",
    "accelerate": "models",
    "datasets": "models",
    "gguf": "models",
    "huggingface_hub": "models",
    "onnx": "models",
    "tokenizers": "models",
    "transformers": "models",
    "altair": "report",
    "jinja2": "report",
    "matplotlib": "report",
    "vl_convert": "report",
    "distributed": "pipeline",
    "snakemake": "pipeline",
    "h5py": "formats",
    "pyarrow": "formats",
}
"""Import name -> the extra of saelib that installs it, as in pyproject.toml.

Packages of single families are in `PACKAGES`.
"""


def available_cpus() -> int:
    """Counts the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def interpreter(family: str) -> str:
    """Returns the Python that runs a family's extraction: that of its own environment if it exists, else `python`.

    Environments are in `.envs` below the working folder, or else below the repository.
    """
    python = _own_python(family)
    return str(python) if python else "python"


def missing_packages(family: str) -> list[str]:
    """Lists the distributions that `family` needs and its Python lacks, without importing any."""
    if family not in PACKAGES:
        return []
    python = _own_python(family)
    places = [str(path) for path in python.parents[1].glob("lib/python*/site-packages")] if python else sys.path
    return [name for name in PACKAGES[family].distributions if not any(distributions(name=name, path=places))]


def require_packages(family: str) -> None:
    """Raises a `UserError` with the command to run if packages of a family are missing."""
    missing = missing_packages(family)
    if missing:
        raise UserError(f"family '{family}' needs {', '.join(missing)}, not installed; run: {PACKAGES[family].install}")


@contextmanager
def explain_missing_extras(extra: str | None = None) -> Iterator[None]:
    """Turns the failed import of a package that an extra installs into one sentence; use it with `with` or as `@`.

    Any other failed import is a defect of saelib or of an installation, and is raised as it is.

    Args:
        extra: The extra that installs everything the block needs. Without it, the missing package's extra is named.

    Raises:
        UserError: If such a package is missing. The message has the command that installs it.

    Example:
        >>> with explain_missing_extras():
        ...     raise ModuleNotFoundError(name="torch")
        Traceback (most recent call last):
        saelib.errors.UserError: this needs torch, which is not installed; run: pip install 'saelib[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        command = f"pip install 'saelib[{extra or EXTRAS[error.name]}]'"
        raise UserError(f"this needs {error.name}, which is not installed; run: {command}") from error


def _own_python(family: str) -> Path | None:
    if family not in ENVIRONMENTS:
        return None
    for folder in (Path.cwd(), Path(__file__).parents[1]):
        python = folder / ".envs" / ENVIRONMENTS[family] / "bin" / "python"
        if python.exists():
            return python
    return None
