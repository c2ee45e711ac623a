"""What `pip install -e` makes of the project: Python finds saelib from every folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def built(kind: str, root: Path) -> Path:
    """A wheel of a clone named saelib in `root`, made by the project's build backend, unpacked."""
    pytest.importorskip("setuptools", minversion="77")
    clone = root / "saelib"
    clone.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(PROJECT / name, clone / name)
    shutil.copytree(PROJECT / "saelib", clone / "saelib", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "tests").mkdir()  # must not be packed
    build = f"import setuptools.build_meta as backend; print(backend.build_{kind}({str(root)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=clone, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    site = root / "site"
    zipfile.ZipFile(root / done.stdout.split()[-1]).extractall(site)
    return site


def found_from(folder: Path, site: Path) -> str:
    """The file of saelib, where `site` is the only folder of packages and Python was started in `folder`."""
    # -S: without this environment's own packages, of which saelib is one.
    code = f"import site; site.addsitedir({str(site)!r}); import saelib; print(saelib.__file__)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_beside_a_clone_named_saelib_the_package_is_found_and_not_the_clone(tmp_path: Path) -> None:
    site = built("editable", tmp_path)
    package = str(tmp_path / "saelib" / "saelib" / "__init__.py")
    (tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path, tmp_path / "elsewhere"):
        assert found_from(folder, site) == package


def test_a_plain_install_has_every_module_and_nothing_else(tmp_path: Path) -> None:
    site = built("wheel", tmp_path)
    names = {str(file.relative_to(PROJECT)) for file in (PROJECT / "saelib").rglob("*.py")}
    names |= {str(file.relative_to(PROJECT)) for file in (PROJECT / "saelib" / "report" / "assets").iterdir()}
    packed = {str(file.relative_to(site)) for file in site.rglob("*") if file.is_file()}
    assert {name for name in packed if ".dist-info/" not in name} == names
    assert found_from(tmp_path, site) == str(site / "saelib" / "__init__.py")
