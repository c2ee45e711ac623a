"""The reference of the configuration: every key of every section, from configs/schema.json."""

import json
import re
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parents[2] / "configs" / "schema.json"
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
LONGEST = 60
"""Longest default that is shown; longer ones are whole sections, whose keys have defaults of their own."""


def config_page() -> str:
    """Gives the page's Markdown: the top level first, then each section where it is first mentioned."""
    schema = json.loads(SCHEMA.read_text())
    parts = [
        "# Configuration",
        "Every key of a suite's YAML file. The [tutorial](../tutorial/add_a_model.md) shows a small one, and "
        "`saelib schema` prints all of this for editors. Keys without a default are required.",
        "## Top level",
        *_section(schema),
    ]
    for name in _in_order(schema):
        section = schema["$defs"][name]
        parts += [f"## {name}", _linked(section.get("description", "")), *_section(section)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: dict[str, Any]) -> list[str]:
    """A table of the section's keys, if it has any."""
    rows = [
        f"| `{key}` | {_type(value)} | {_default(key, value, section)} | {_cell(value.get('description', ''))} |"
        for key, value in section.get("properties", {}).items()
    ]
    return ["\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])] if rows else []


def _in_order(schema: dict[str, Any]) -> list[str]:
    """Names of the sections, each after the one that mentions it first."""
    names: list[str] = []

    def visit(part: dict[str, Any]) -> None:
        for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(part.get("properties", {}))):
            if name not in names:
                names.append(name)
                visit(schema["$defs"][name])

    visit(schema)
    return names


def _type(value: dict[str, Any]) -> str:
    """Says in words what values a key takes, with links to sections."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in value:
            return " or ".join(dict.fromkeys(_type(each) for each in value[several]))
    if "const" in value:
        return _code(value["const"])
    if "enum" in value:
        return ", ".join(map(_code, value["enum"]))
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object":
        of = [*value.get("patternProperties", {}).values(), value.get("additionalProperties")]
        inner = next((_type(each) for each in of if isinstance(each, dict)), "")
        return f"name: {inner}" if inner else "mapping"
    limits = [f"{sign} {value[key]}" for key, sign in LIMITS.items() if key in value]
    return " ".join([{"null": "none"}.get(value.get("type", "any"), value.get("type", "any")), *limits])


def _default(key: str, value: dict[str, Any], section: dict[str, Any]) -> str:
    if "default" not in value:
        return "required" if key in section.get("required", ()) else ""
    text = "none" if value["default"] is None else json.dumps(value["default"])
    return _code(text) if len(text) <= LONGEST else "see the section"


def _code(value: object) -> str:
    return f"`{value}`"


def _cell(text: str) -> str:
    return _linked(text).replace("\n", " ").replace("|", "\\|")


def _linked(text: str) -> str:
    """Turns the paths of other pages into links."""
    return re.sub(r"`?docs/(\w+\.md)`?", r"[\1](../\1)", text)
