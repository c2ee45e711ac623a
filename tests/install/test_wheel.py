"""The wheel: what is in it, and what it does in an empty environment, where nothing but its dependencies is."""

import email
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import saelib

PROJECT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
HEAVY = {"torch", "transformers", "datasets", "snakemake", "distributed", "matplotlib", "altair", "pyarrow", "h5py"}


def test_it_holds_every_module_and_its_data_and_nothing_else(wheel: Path) -> None:
    wanted = {str(file.relative_to(PROJECT)) for file in (PROJECT / "saelib").rglob("*.py")}
    wanted |= {str(file.relative_to(PROJECT)) for file in (PROJECT / "saelib").glob("*/assets/*")}
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in packed if ".dist-info/" not in name} == wanted | {"saelib/py.typed"}
    assert wheel.stat().st_size < 2_000_000


def test_it_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    folder = f"saelib-{saelib.__version__}.dist-info"
    metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
    assert metadata["Version"] == saelib.__version__
    oldest = re.fullmatch(r">=3\.(\d+)", metadata["Requires-Python"])
    named = [
        int(version) for version in re.findall(r":: 3\.(\d+)$", "\n".join(metadata.get_all("Classifier", [])), re.M)
    ]
    assert oldest
    assert named == list(range(int(oldest[1]), max(named) + 1))
    assert "saelib = saelib.cli:main" in archive.read(f"{folder}/entry_points.txt").decode()
    assert {"train", "models", "pipeline", "report", "interop", "all"} <= set(metadata.get_all("Provides-Extra", []))


def outside() -> dict[str, str]:
    """Environment variables without those that would let Python find the clone."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def dependencies(wheel: Path) -> Iterable[Distribution]:
    """The packages of this environment that the wheel requires, and those that they require in turn; no extra."""
    own = PathDistribution(zipfile.Path(wheel, f"saelib-{saelib.__version__}.dist-info/"))
    todo = [(line, "") for line in own.requires or []]
    seen, found = set(todo), {}
    while todo:
        line, extra = todo.pop()
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            package = found[canonicalize_name(one.name)] = distribution(one.name)
            new = {(line, wanted) for line in package.requires or [] for wanted in ("", *one.extras)} - seen
            seen |= new
            todo += new
    return found.values()


@pytest.fixture(scope="module")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and its dependencies, which need no package index here."""
    root = tmp_path_factory.mktemp("empty")
    apart: Any = {"cwd": root, "env": outside(), "capture_output": True, "text": True}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "env"], check=True, **apart)
    (site,) = (root / "env" / "lib").glob("python*/site-packages")
    for package in dependencies(wheel):
        for name in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            (site / name).symlink_to(str(package.locate_file(name)))
    # pip refuses to install the wheel if one of its dependencies, or one of theirs, is missing.
    done = subprocess.run([*PIP, "--python", "env", "install", "--no-compile", "--no-index", str(wheel)], **apart)
    assert done.returncode == 0, done.stderr
    return root / "env" / "bin"


def run(command: list[str], folder: Path, code: int = 0) -> str:
    done = subprocess.run(command, cwd=folder, env=outside(), capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def test_an_empty_environment_gets_library_and_command_without_heavy_packages(empty: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(3, 1, size=(2000, 16)).astype(np.float32))
    listed = "import importlib.metadata as m, json; print(json.dumps([d.name for d in m.distributions()]))"
    assert HEAVY.isdisjoint(json.loads(run([str(empty / "python"), "-c", listed], tmp_path)))
    command = str(empty / "saelib")
    assert run([command, "--version"], tmp_path) == f"saelib {saelib.__version__}\n"
    assert "theory" in run([str(empty / "python"), "-m", "saelib", "-h"], tmp_path)
    assert "dead_total" in run([command, "theory", "--gamma", "5"], tmp_path)
    measured = json.loads(run([command, "stats", "a.npy", "--json"], tmp_path))
    assert measured["gamma_raw"] == pytest.approx(3, rel=0.1)
    code = (
        "import numpy as np, saelib\nacts = np.load('a.npy')\n"
        "print(saelib.measure_init_death(acts, d_sae=64, k=4)['raw'].dead_total.mean > 0.1)\n"
        "print(saelib.predict_death(5.0, d_sae=64, k=4).dead_total > 0.1)"
    )
    assert run([str(empty / "python"), "-c", code], tmp_path).split() == ["True", "True"]
    missing = run([command, "import", "their_sae", "mine.safetensors"], tmp_path, code=1)
    assert missing == "error: this needs torch, which is not installed; run: pip install 'saelib[train]'\n"
