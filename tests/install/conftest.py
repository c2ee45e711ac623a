"""Builds of the project, by its own build backend."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def build(kind: str, root: Path) -> Path:
    """A wheel of a clone named saelib in `root`; `kind` is "wheel" or "editable"."""
    clone = root / "saelib"
    clone.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(PROJECT / name, clone / name)
    shutil.copytree(PROJECT / "saelib", clone / "saelib", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "tests").mkdir()  # must not be packed
    code = f"import setuptools.build_meta as backend; print(backend.build_{kind}({str(root)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return root / done.stdout.split()[-1]


@pytest.fixture
def built() -> Callable[[str, Path], Path]:
    return build


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))
