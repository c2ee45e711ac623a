"""Makes the JSON schema of the configuration from its types, for editors that complete and check YAML."""

import ast
import inspect
import json
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from saelib.config.base import Section
from saelib.config.schema import Config

TAGS = ("family", "kind")
"""Keys that tell sections apart. Each is described by its section's docstring."""


def config_schema() -> dict[str, Any]:
    """Returns the schema of a suite, in which every key has a description.

    A key's description is its docstring. A key without one has the description of the key that it overrides, or of the
    section that it opens.
    """
    schema = Config.model_json_schema(schema_generator=_WithoutTitles)
    sections = {section.__name__: section for section in _below(Section)}
    for name, part in [("Config", schema), *schema["$defs"].items()]:
        for key, value in part.get("properties", {}).items():
            if "description" not in value:
                described = value | {"description": _description(sections[name], key, schema["$defs"])}
                part["properties"][key] = dict(sorted(described.items()))  # as pydantic sorts
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """Returns the text of configs/schema.json."""
    return json.dumps(config_schema(), indent=1) + "\n"


class _WithoutTitles(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leaves out titles such as "D Sae", which repeat the key."""
        return False


def _description(section: type[Section], key: str, parts: dict[str, Any]) -> str:
    for base in section.__mro__:
        if issubclass(base, Section) and not _grid_of(base) and key in (found := _docstrings(base)):
            return found[key]
    if (grid := _grid_of(section)) is not None:  # its keys are those of another section
        return f"{_description(grid, key, parts)} It may be a list, which becomes an axis of the grid."
    annotation = section if key in TAGS else section.model_fields[key].annotation
    name = getattr(annotation, "__name__", "")
    if name not in parts:
        raise LookupError(f"{section.__name__}.{key} has no docstring")
    return parts[name]["description"]


def _grid_of(section: type[Section]) -> type[Section] | None:
    """Returns the section whose keys are a grid's axes; None for a section that is no grid."""
    found = getattr(section, "of", None)
    return found if isinstance(found, type) else None


@cache
def _docstrings(section: type[Section]) -> dict[str, str]:
    """Reads the docstrings of a section's own keys from its source code.

    pydantic's `use_attribute_docstrings` does the same whenever the configuration is imported, so in every job.
    """
    (definition,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(key.target): inspect.cleandoc(ast.literal_eval(docstring.value))
        for key, docstring in pairwise(definition.body)
        if isinstance(key, ast.AnnAssign) and isinstance(docstring, ast.Expr)
    }


def _below(section: type[Section]) -> set[type[Section]]:
    return {section}.union(*(_below(each) for each in section.__subclasses__()))
