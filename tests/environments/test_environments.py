"""Families, pip extras, conda files and pinned versions name the same packages, and what is missing is said."""

import ast
import os
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from saelib import environments
from saelib.environments import (
    ENVIRONMENTS,
    EXTRAS,
    PACKAGES,
    explain_missing_extras,
    interpreter,
    missing_packages,
    require_packages,
)
from saelib.errors import UserError
from saelib.sources import FAMILIES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FAMILY_EXTRAS = {"esm2": "esm2", "esm3": "esm3", "stable_diffusion_3": "sd3"}
"""Family -> pip extra."""
MAIN = sorted({"pipeline"}.union(extra for family, extra in FAMILY_EXTRAS.items() if family not in ENVIRONMENTS))
"""What the default environment holds: the pipeline, and every family that fits into it."""
APART = {"esm3", "triton", "trackio", "wandb", "dev"}
"""Extras that `all` leaves out: an environment of its own, a compiler for GPUs, services, tools."""


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def required(*extras: str) -> list[Requirement]:
    """What pip installs for saelib with these extras, whatever extras they name in turn."""
    found: list[Requirement] = []
    todo = [*map(Requirement, PROJECT["dependencies"]), Requirement(f"saelib[{','.join(extras)}]")]
    while todo:
        requirement = todo.pop()
        if requirement.name == "saelib":
            lines = (PROJECT["optional-dependencies"][extra] for extra in requirement.extras)
            todo += map(Requirement, chain.from_iterable(lines))
        else:
            found.append(requirement)
    return found


def installed_by(conda_file: Path) -> str:
    """The line of a conda file that installs saelib and extras."""
    (pip,) = [item["pip"] for item in yaml.safe_load(conda_file.read_text())["dependencies"] if isinstance(item, dict)]
    (line,) = pip
    return line


def test_every_family_with_packages_has_an_extra_that_names_them():
    assert FAMILY_EXTRAS.keys() == PACKAGES.keys()
    assert PACKAGES.keys() <= FAMILIES.keys()
    for family, extra in FAMILY_EXTRAS.items():
        named = {Requirement(line).name for line in PROJECT["optional-dependencies"][extra]}
        assert set(PACKAGES[family].distributions) <= named
        expected = f"make env-{ENVIRONMENTS[family]}" if family in ENVIRONMENTS else f"pip install 'saelib[{extra}]'"
        assert PACKAGES[family].install == expected


def test_conda_files_and_make_install_the_same_extras():
    names = ",".join(MAIN)
    assert installed_by(ROOT / "envs/saelib.yaml") == f"-e ..[{names}]"
    makefile = (ROOT / "Makefile").read_text()
    assert f"-e '.[{names}]'" in makefile
    assert "saelib[all]" in PROJECT["optional-dependencies"]["dev"]
    for family, environment in ENVIRONMENTS.items():
        assert installed_by(ROOT / f"envs/{environment}.yaml") == f"-e ..[{FAMILY_EXTRAS[family]}]"
        assert f"-c envs/{environment}-constraints.txt -e '.[{FAMILY_EXTRAS[family]}]'" in makefile
    assert {path.stem for path in (ROOT / "envs").glob("*.yaml")} == {"saelib", *ENVIRONMENTS.values()}


@pytest.mark.parametrize(
    ("file", "extra"),
    [
        ("constraints.txt", "dev"),
        *((f"envs/{name}-constraints.txt", FAMILY_EXTRAS[f]) for f, name in ENVIRONMENTS.items()),
    ],
)
def test_pinned_versions_are_ones_that_saelib_accepts(file, extra):
    pinned = pins(ROOT / file)
    for requirement in required(extra):
        name = canonicalize_name(requirement.name)
        if name in pinned or name != "pip":  # pip is there before anything is pinned
            assert requirement.specifier.contains(pinned[name]), f"{requirement}: pinned to {pinned[name]}"


def test_all_names_every_extra_that_fits_one_environment():
    (line,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(line).extras == PROJECT["optional-dependencies"].keys() - APART - {"all"}
    assert {"esm", "wandb", "trackio"}.isdisjoint(requirement.name for requirement in required("all"))


def test_what_measures_arrays_needs_no_heavy_package():
    heavy = {"torch", "transformers", "datasets", "snakemake", "matplotlib", "altair", "distributed", "huggingface-hub"}
    assert heavy.isdisjoint(requirement.name for requirement in required())
    assert heavy <= {requirement.name for requirement in required("all")}


def test_a_missing_package_is_named_with_the_extra_that_installs_it():
    packages = {
        "Bio": "biopython",
        "PIL": "pillow",
        "vl_convert": "vl-convert-python",
        "tokenizers": "transformers",
    } | {"google": "onnx"}
    for module, extra in EXTRAS.items():
        package = packages.get(module, module.replace("_", "-"))
        assert package in {requirement.name for requirement in required(extra)}, f"{module}: not in {extra}"
        assert package not in {requirement.name for requirement in required()}
        message = rf"needs {module}, .*; run: pip install 'saelib\[{extra}\]'$"
        with pytest.raises(UserError, match=message), explain_missing_extras():
            raise ModuleNotFoundError(name=module)


@pytest.mark.parametrize("name", ["torch._C", "numpy", "of_the_user", None])
def test_other_failed_imports_are_raised_as_they_are(name):
    """A broken installation, and code of the user's, are not what an extra would mend."""
    with pytest.raises(ModuleNotFoundError), explain_missing_extras():
        raise ModuleNotFoundError(name=name)


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


def test_every_package_that_is_imported_is_required_by_the_core_or_by_an_extra():
    """A package that only comes along with another one would be missing the day that one drops it."""
    brought = {"google": "onnx", "llvmlite": "numba", "pydantic_core": "pydantic", "tokenizers": "transformers"}
    names = {
        "Bio": "biopython",
        "PIL": "pillow",
        "botocore": "boto3",
        "esm": "fair-esm",
        "vl_convert": "vl-convert-python",
    }
    names |= brought | {"yaml": "pyyaml"}
    known = {canonicalize_name(requirement.name) for requirement in required(*PROJECT["optional-dependencies"])}
    found = {
        name.partition(".")[0]
        for file in [*(ROOT / "saelib").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
        for node in ast.walk(ast.parse(file.read_text()))
        for name in _imported(node)
    }
    # sae_lens is used if somebody has it; it fits no environment of ours (`make test-interop`).
    foreign = found - sys.stdlib_module_names - {"saelib", "sae_lens"}
    assert {"torch", "numba", "snakemake"} <= foreign
    assert {name for name in foreign if canonicalize_name(names.get(name, name)) not in known} == set()


def _imported(node):
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and not node.level else []
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
