"""Reads a configuration file and reports all of its mistakes at once."""

import difflib
import json
import re
import types
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from saelib.config.architectures import family_of, is_architecture
from saelib.config.schema import Config, ModelConfig
from saelib.config.sites import compact
from saelib.config.sizes import stated_size
from saelib.errors import UserError

RENAMED = {"licence": "license", "revival": "dead_latents", "coefficient": "auxk_coefficient"}
"""Key of an earlier version -> its present name."""
FORMS = {
    r"^[A-Za-z0-9][A-Za-z0-9._+-]*$": "letters, digits and . _ + -, of which a letter or digit comes first",
    r"^[0-9a-f]{64}$": "a SHA-256: 64 of the characters 0-9 and a-f",
    r"^(auto|cpu|cuda(:\d+)?)$": "auto, cpu, cuda or a certain GPU, such as cuda:1",
    r"^(tcp|tls)://[^\s@/]+:\d+$": "an address such as tcp://head:8786",
    r"^\d+ ?[KMGT]i?B$": "a size such as 16GiB",
    r"^(\d+-)?\d+:\d\d:\d\d$": "a time such as 04:00:00 or 1-12:00:00",
    r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$": "module:name, such as nets.chars:CharModel",
    r"^s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._+-]+)*$": "s3://bucket or s3://bucket/prefix, without a user in it",
    r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$|^[A-Za-z0-9._-]+$": "a repository of the hub, such as openai-community/gpt2",
    r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+$": "a package with its version, such as antiberty==0.1.3",
    r"^[A-Za-z0-9._+-]+\.whl$": "the name of a .whl file",
    r"^(https?|ftp)://[^\s@]+$": "a URL with http, https or ftp, without a user in it",
    r"^\s*(all|\d+|\d+\s*-\s*\d*)\s*$": "a layer number, a range such as 1-12 or 5-, or all",
}
"""Pattern that a text must match -> what it looks like, for people."""


def load_config(*paths: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Reads a suite, fills in its defaults and checks it.

    Args:
        paths: Configuration files. Each adds to those before it, as in `snakemake --configfile A B`: mappings are
            merged, and other values replaced.
        overrides: Keys that are added to them, such as those after Snakemake's `--config`.

    Raises:
        UserError: If there are mistakes. The message has one line for each: the key, the problem, the allowed values.
    """
    first, *others = [*map(read_yaml, paths), *([overrides] if overrides else [])]
    name = " + ".join([*map(str, paths), *(["--config"] if overrides else [])])
    return check_config(reduce(merged, (other for other in others if other is not None), first), name)


def merged(first: Any, second: Any) -> Any:
    """Adds the keys of a second mapping to a first one, at every depth. Other values are replaced."""
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return second
    return {**first, **{key: merged(first.get(key), value) for key, value in second.items()}}


def check_config(raw: Any, name: str) -> Config:
    """Checks a configuration that is already in memory; messages call it `name`."""
    if not isinstance(raw, dict):
        raise UserError(f"{name}: should be a mapping with the keys {', '.join(Config.model_fields)}")
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # Pydantic also reports a list whose only item is wrong as too short, which is not a second mistake.
        inner = {details["loc"][:-1] for details in errors}
        errors = [details for details in errors if details["type"] != "too_short" or details["loc"] not in inner]
        raise _mistakes(name, [_explain(details) for details in errors]) from None
    broken = _broken_references(config)
    if broken:
        raise _mistakes(name, broken)
    return config


def _mistakes(name: str, lines: list[str]) -> UserError:
    count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
    return UserError("\n  ".join([f"{name}: {count}", *lines]))


class _UniqueKeyLoader(yaml.SafeLoader):
    """Loads YAML and refuses duplicate keys, of which plain YAML silently takes the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                problem = f"the key '{key_node.value}' appears twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as a string, because it has no dot. People write learning rates without one.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> Any:
    """Parses YAML without constructing arbitrary objects. Raises `UserError` with file and line."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name the configuration file in it") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a configuration file, because its bytes are not text in UTF-8") from None
    except RecursionError:
        raise UserError(f"{path}: not a configuration file, because it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}: not valid YAML{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def _broken_references(config: Config) -> list[str]:
    """Lists a missing table, and models whose data set or sizes are wrong, or whose code shares the results' folder."""
    mistakes = []
    if config.compare is not None and not config.compare.table.is_file():
        mistakes.append(f"compare.table: no file {config.compare.table}")
    for name, model in config.models.items():
        where = f"models.{name}.dataset"
        if model.source.family == "arrays":
            if model.dataset is not None:
                mistakes.append(f"{where}: the family 'arrays' has its own activations; remove this key")
            if model.blocks is not None:
                mistakes.append(
                    f"models.{name}.blocks: the family 'arrays' has the layers of its files; remove this key"
                )
            missing = sorted(set(model.layers) - set(model.source.files))
            if missing:
                mistakes.append(f"models.{name}.source.files: no file for layer {', '.join(map(str, missing))}")
        elif model.dataset is None:
            mistakes.append(f"{where}: missing; should be one of: {', '.join(config.datasets) or '(none is defined)'}")
        elif model.dataset not in config.datasets:
            mistakes.append(f"{where}: no data set '{model.dataset}'{_hint(model.dataset, list(config.datasets))}")
        mistakes += [f"models.{name}.{mistake}" for mistake in _other_sizes(model)]
        code = getattr(model.source, "import_from", None)
        if code is not None and config.results.resolve().is_relative_to(code.path.expanduser().resolve()):
            # Every run would change the folder whose files decide whether results are stale.
            where = f"models.{name}.source.import_from"
            mistakes.append(f"{where}: {code.path} holds the results too; move your code to its own folder")
    return mistakes


def _other_sizes(model: ModelConfig) -> Iterator[str]:
    """Lists contradictions about sizes, between a model's config and its files on this machine or within the config."""
    size = stated_size(model.source)
    for key, number, found in (("blocks", model.blocks, size.blocks), ("width", model.width, size.width)):
        if number is not None and found is not None and number != found:
            yield f"{key}: {number}, but {size.where} says {found}; either the number or the model is wrong"
    last, where = (model.blocks, "blocks") if model.blocks is not None else (size.blocks, size.where)
    beyond = tuple(layer for layer in model.layers if last is not None and layer > last)
    if beyond:
        yield f"layers: there is no layer {compact(beyond)}: {where} says that the last is {last}"


def _explain(error: ErrorDetails) -> str:
    """Explains a mistake on one line: the key, the problem, the allowed values."""
    location = error["loc"]
    key = ".".join(str(part) for part in _visible(location))
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        parent = _type_at(location[:-1])
        names = list(parent.model_fields) if isinstance(parent, type) and issubclass(parent, BaseModel) else []
        if RENAMED.get(str(location[-1])) in names:
            return f"{key}: is now called '{RENAMED[str(location[-1])]}'"
        return f"{key}: unknown key{_hint(str(location[-1]), names)}"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "union_tag_invalid":
        allowed, tag = _words(context["expected_tags"]), str(context["tag"])
        discriminator = str(context["discriminator"]).strip("'")
        hint = _hint_of_a_family(tag, allowed) if discriminator == "family" else _hint(tag, allowed)
        return f"{key}.{discriminator}: no such value '{tag}'{hint}"
    if kind == "union_tag_not_found":
        return f"{key}: the key {context['discriminator']} is missing"
    if kind == "literal_error":
        allowed = _words(str(context["expected"]).replace(" or ", ", "))
        return f"{key}: {_as_written(error['input'])} is not allowed{_hint(str(error['input']), allowed)}"
    message = _in_words(kind, context) or error["msg"].removeprefix("Value error, ")
    shown = _as_written(error["input"])
    # A URL with a user may hold a password, and messages end up in logs.
    private = "://" in shown and "@" in shown
    value = f" (found {shown})" if len(shown) < 80 and not private and not isinstance(error["input"], dict) else ""
    return f"{key or 'the suite'}: {message[0].lower()}{message[1:]}{value}"


def _in_words(kind: str, context: Mapping[str, Any]) -> str | None:
    """Says in plain words what pydantic would say in those of Python; None if its own words will do."""
    if kind == "string_pattern_mismatch":
        return f"should be {FORMS[context['pattern']]}"
    if kind == "path_type":
        return "should be a path"
    if kind == "model_type":
        return "should be a mapping of keys to values"
    if kind == "too_short":
        return f"should have at least {context['min_length']} item{'s' if context['min_length'] > 1 else ''}"
    return None


def _as_written(value: Any) -> str:
    """Formats a value as YAML writes it and not as Python does: `null`, `true`, `[1, 2]`."""
    return f"'{value}'" if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _words(listed: object) -> list[str]:
    """Turns pydantic's "'a', 'b'" into ['a', 'b']."""
    return [word.strip(" '") for word in str(listed).split(",")]


def _hint_of_a_family(word: str, allowed: list[str]) -> str:
    """Suggests a family for a wrong one, which may be a typo or the name of an architecture that a family loads."""
    typo = sorted(difflib.get_close_matches(word, allowed, cutoff=0.8))
    family = None if typo and not is_architecture(word) else family_of(word)
    if family is None:
        return _hint(word, allowed)
    also = f" (or did you mean {' or '.join(map(repr, typo))}?)" if typo else ""
    return f", which is an architecture: write 'family: {family}', which loads it{also}. Allowed: {', '.join(allowed)}"


def _hint(word: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    guess = f"; did you mean '{close[0]}'?" if close else ""
    return f"{guess} Allowed: {', '.join(allowed)}" if guess else f"; allowed: {', '.join(allowed) or '(none)'}"


def _visible(location: tuple[int | str, ...]) -> list[int | str]:
    """Drops the union tags and markers that pydantic puts into a location, because they are not keys in the file."""
    visible: list[int | str] = []
    for end, part in enumerate(location, 1):
        before = _type_at(location[: end - 1])
        if part != "[key]" and not _is_union(before):
            visible.append(part)
    return visible


def _type_at(location: tuple[int | str, ...]) -> Any:
    """Returns the annotation of a location in the configuration; None if the schema has no such location."""
    here: Any = Config
    for part in location:
        here = _step(here, part)
    return here


def _step(here: Any, part: int | str) -> Any:
    if isinstance(here, type) and issubclass(here, BaseModel):
        field = here.model_fields.get(str(part))
        return _bare(field.annotation) if field else None
    if _is_union(here):
        for option in get_args(here):
            if part in _tags(option):
                return _bare(option)
        return None
    arguments = [argument for argument in get_args(here) if argument is not Ellipsis]
    if get_origin(here) is dict and part != "[key]":
        return _bare(arguments[1])
    return _bare(arguments[0]) if get_origin(here) is tuple and arguments else None


def _bare(annotation: Any) -> Any:
    """Strips `Annotated[...]` and `| None`."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    options = [option for option in get_args(annotation) if option is not type(None)]
    if get_origin(annotation) is not None and type(None) in get_args(annotation) and len(options) == 1:
        return _bare(options[0])
    return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _tags(option: Any) -> list[str]:
    """Returns pydantic's names for one option of a discriminated union: its explicit tag, or its literal."""
    tags = [meta.tag for meta in getattr(option, "__metadata__", ()) if hasattr(meta, "tag")]
    model = _bare(option)
    if isinstance(model, type) and issubclass(model, BaseModel):
        for name in ("family", "kind"):
            if name in model.model_fields:
                tags.extend(get_args(model.model_fields[name].annotation))
    return tags
