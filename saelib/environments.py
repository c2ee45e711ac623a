"""Finds the packages that single model families need, and the Python that runs each family."""

import sys
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


def _own_python(family: str) -> Path | None:
    if family not in ENVIRONMENTS:
        return None
    for folder in (Path.cwd(), Path(__file__).parents[1]):
        python = folder / ".envs" / ENVIRONMENTS[family] / "bin" / "python"
        if python.exists():
            return python
    return None
