"""The documents name links, paths, commands and config keys that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from saelib.cli.main import app
from saelib.config.load import check_config

PROJECT = Path(__file__).parents[2]
DOCUMENTS = sorted(path for pattern in ("*.md", "docs/**/*.md", "saelib/**/*.md") for path in PROJECT.glob(pattern))
TOP = "saelib|docs|tests|tools|benchmarks|rules|scripts|configs|profiles|envs"
ONE_FILE = {"family": "arrays", "files": {layer: f"{layer}.npy" for layer in range(1, 33)}}


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    paths = [PROJECT / path for path in re.findall(rf"`((?:{TOP})/[\w./-]*)`", text)]
    assert [str(path) for path in (*links, *paths) if not path.exists()] == []


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_commands_and_make_targets_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"(?:^    |`)make ([a-z][a-z0-9-]*)", text, re.MULTILINE))
    makefile = (PROJECT / "Makefile").read_text()
    assert {target for target in targets if f"\n{target}: " not in makefile} == set()
    used = set(re.findall(r"(?:^    |`)saelib ([a-z][a-z0-9-]*)", text, re.MULTILINE))
    assert used - set(get_command(app).commands) == set()  # type: ignore[attr-defined]
    benchmarks = set(re.findall(r"python -m benchmarks ([a-z_]+)", text))
    known = {path.stem for path in (PROJECT / "benchmarks").iterdir()}
    assert benchmarks - known == set()


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_configs_are_valid(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        shown = yaml.safe_load(re.sub(r"^ *\.\.\.\n", "", block, flags=re.MULTILINE))
        if "default-resources" not in shown:  # a profile of Snakemake
            check_config(_complete(shown), name(page))


def _complete(shown: dict[str, Any]) -> dict[str, Any]:
    """A whole config around the part that a page shows."""
    datasets = {"python_docs": {"kind": "python_docs"}} | shown.get("datasets", {})
    models = {
        model: {"domain": "other", "source": ONE_FILE, "layers": [1]} | entry
        for model, entry in shown.get("models", {"any": {}}).items()
    }
    return shown | {"datasets": datasets, "models": models}
