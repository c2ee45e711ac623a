"""Families, pip extras, conda files and pinned versions name the same packages, and what is missing is said."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from saelib import environments
from saelib.environments import ENVIRONMENTS, PACKAGES, interpreter, missing_packages, require_packages
from saelib.errors import UserError
from saelib.sources import FAMILIES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"esm2": "esm2", "esm3": "esm3", "stable_diffusion_3": "sd3"}
"""Family -> pip extra."""
MAIN = sorted(extra for family, extra in EXTRAS.items() if family not in ENVIRONMENTS)


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def installed_by(conda_file: Path) -> str:
    """The line of a conda file that installs saelib and extras."""
    (pip,) = [item["pip"] for item in yaml.safe_load(conda_file.read_text())["dependencies"] if isinstance(item, dict)]
    (line,) = pip
    return line


def test_every_family_with_packages_has_an_extra_that_names_them():
    assert EXTRAS.keys() == PACKAGES.keys()
    assert PACKAGES.keys() <= FAMILIES.keys()
    for family, extra in EXTRAS.items():
        named = {Requirement(line).name for line in PROJECT["optional-dependencies"][extra]}
        assert set(PACKAGES[family].distributions) <= named
        expected = f"make env-{ENVIRONMENTS[family]}" if family in ENVIRONMENTS else f"pip install 'saelib[{extra}]'"
        assert PACKAGES[family].install == expected


def test_conda_files_and_make_install_the_same_extras():
    names = ",".join(MAIN)
    assert installed_by(ROOT / "envs/saelib.yaml") == f"-e ..[{names}]"
    makefile = (ROOT / "Makefile").read_text()
    assert f"-e '.[{names}]'" in makefile
    assert f"saelib[{names}]" in PROJECT["optional-dependencies"]["dev"]
    for family, environment in ENVIRONMENTS.items():
        assert installed_by(ROOT / f"envs/{environment}.yaml") == f"-e ..[{EXTRAS[family]}]"
        assert f"-c envs/{environment}-constraints.txt -e '.[{EXTRAS[family]}]'" in makefile
    assert {path.stem for path in (ROOT / "envs").glob("*.yaml")} == {"saelib", *ENVIRONMENTS.values()}


@pytest.mark.parametrize(
    ("file", "extras"),
    [("constraints.txt", MAIN), *((f"envs/{name}-constraints.txt", [EXTRAS[f]]) for f, name in ENVIRONMENTS.items())],
)
def test_pinned_versions_are_ones_that_saelib_accepts(file, extras):
    pinned = pins(ROOT / file)
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name in pinned or name != "pip":  # pip is there before anything is pinned
            assert requirement.specifier.contains(pinned[name]), f"{requirement}: pinned to {pinned[name]}"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A working directory with an empty environment for ESM3."""
    python = tmp_path / ".envs/esm3/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (tmp_path / ".envs/esm3/lib/python3.11/site-packages").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_family_runs_in_its_own_environment_once_that_is_made(made):
    assert interpreter("esm3") == str(made / ".envs/esm3/bin/python")
    assert [interpreter(family) for family in ("esm2", "transformers")] == ["python", "python"]


def test_without_one_it_runs_where_everything_does(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environments, "__file__", str(tmp_path / "saelib" / "environments.py"))
    assert interpreter("esm3") == "python"
    assert missing_packages("esm3") == ["esm"]  # fair-esm, which is installed here, is another


def test_packages_are_looked_for_where_the_family_runs(made):
    assert missing_packages("esm3") == ["esm"]
    assert missing_packages("transformers") == missing_packages("esm2") == []
    with pytest.raises(UserError, match="family 'esm3' needs esm, not installed; run: make env-esm3"):
        require_packages("esm3")
    metadata = made / ".envs/esm3/lib/python3.11/site-packages/esm-3.2.1.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: esm\nVersion: 3.2.1\n")
    assert missing_packages("esm3") == []


def test_looking_imports_nothing_heavy():
    code = (
        "import sys; from saelib.environments import *; [missing_packages(family) for family in PACKAGES];"
        "print(*{'torch', 'esm', 'numpy', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == []


def test_the_path_to_python_is_absolute(made):
    """Jobs on a cluster may start elsewhere."""
    assert os.path.isabs(interpreter("esm3"))
