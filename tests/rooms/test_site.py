"""The pages that the site adds to docs/ leave nothing out, and its navigation names every page."""

import json
import re
from pathlib import Path

import yaml
from typer.main import get_command

import saelib
from saelib import evaluation
from saelib.cli.main import app
from tools.site.api_page import RESULTS, api_page
from tools.site.cli_page import cli_page
from tools.site.config_page import config_page
from tools.site.notebook_page import notebook_page

PROJECT = Path(__file__).parents[2]


def test_every_public_name_is_in_the_reference() -> None:
    shown = re.findall(r"^::: (\S+)$", api_page(), re.MULTILINE)
    public = [f"saelib.{name}" for name in saelib.__all__] + [
        f"saelib.evaluation.{name}" for name in evaluation.__all__
    ]
    assert sorted(shown) == sorted([*public, *RESULTS])


def test_every_key_of_the_configuration_is_in_the_reference() -> None:
    schema = json.loads((PROJECT / "configs" / "schema.json").read_text())
    page = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", config_page(), re.M | re.S))
    sections = {"Top level": schema, **schema["$defs"]}
    assert set(page) == set(sections)
    for name, section in sections.items():
        assert re.findall(r"^\| `(\w+)` \|", page[name], re.MULTILINE) == list(section.get("properties", {}))


def test_every_command_and_option_is_in_the_reference() -> None:
    page = cli_page()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"\n## saelib {name}" in page
        for parameter in getattr(command, "params", ()):
            if parameter.param_type_name == "option" and not hasattr(command, "commands"):
                assert f"`{parameter.opts[0]}`" in page


def test_a_notebook_becomes_its_text_and_its_code(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Words."]},
        {"cell_type": "code", "source": ["a = 1\n", "a"], "outputs": []},
    ]
    path = tmp_path / "small.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert notebook_page(path).startswith("# Title\nWords.\n\n```python\na = 1\na\n```\n\n")


def test_the_navigation_names_every_page_of_docs_once() -> None:
    nav = re.findall(r"[\w/-]+\.md", json.dumps(yaml.safe_load((PROJECT / "mkdocs.yml").read_text())["nav"]))
    assert len(nav) == len(set(nav))
    docs = {str(path.relative_to(PROJECT / "docs")) for path in (PROJECT / "docs").rglob("*.md")}
    assert docs <= set(nav)
