"""Says why a result is stale, by comparing the ingredients of its key with those of the wanted key.

A key is a hash, which shows only that something changed. `results/keys.json` records the ingredients of each key. The
process that controls a run writes it when the run starts, for every result that exists or is wanted. The file decides
nothing: without it, the same results are stale, and only the reasons say less.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from saelib.errors import UserError
from saelib.files.publish import published_file
from saelib.files.sealed import read_sealed, seal

log = logging.getLogger(__name__)

UNKNOWN = "made by another version of saelib, or elsewhere: there is no record of its settings and code"
UNSAID = "an input changed, but no record says which"
MISSING, DAMAGED = "missing", "damaged or unfinished"
UNFINISHED = ""
"""Key of a report that lacks results. It is never wanted, so the next run recomputes the report."""
MOST_NAMES = 3
"""Most modules or results that a reason names; it counts the others."""
LONGEST_VALUE = 40


@dataclass(frozen=True)
class MadeFrom:
    """The ingredients of a key, under names that a person knows."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Key in the config, such as 'train.k' -> its value."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Module -> its hash."""
    upstream: Mapping[str, str] = field(default_factory=dict)
    """Result that it is computed from, such as 'stats of calm layer 1' -> the key of that result."""


Records = Mapping[str, Mapping[str, MadeFrom]]
"""Result, such as 'stats of calm layer 1' -> the key that it carries and the wanted one -> their ingredients."""


@dataclass(frozen=True)
class _File:
    """The content of `keys.json`. Results of a stage share their code, so each set of modules is stored once."""

    code: dict[str, dict[str, str]]
    results: dict[str, dict[str, tuple[dict[str, Any], str, dict[str, str]]]]
    """Result -> key -> its settings, the name of its set in `code`, its upstream keys."""


def named(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Flattens nested settings into one mapping from names to values.

    Args:
        settings: Anything that JSON can hold.
        names: Path of a value, such as 'a.b' -> the name that replaces it, in the names of that value and of all values
            below it. The path '' is that of all settings.
    """
    found: dict[str, Any] = {}
    for path, value in _leaves(settings):
        parts = path.split(".")
        for end in range(len(parts), -1, -1):
            known = names.get(".".join(parts[:end]))
            if known is not None:
                path = ".".join([known, *parts[end:]])
                break
        found[path] = value
    return found


def reasons(key: str | None, there: bool, wanted: MadeFrom, known: Mapping[str, MadeFrom]) -> list[str]:
    """Says why a result that does not carry the wanted key is stale.

    Args:
        key: The key that the result carries; None if it has none that can be read.
        there: Whether anything exists in its place.
        wanted: The ingredients of the wanted key.
        known: The recorded ingredients of its keys.
    """
    if key is None:
        return [DAMAGED if there else MISSING]
    if key == UNFINISHED:
        return ["the last run ended without all results"]
    made = known.get(key)
    if made is None:
        return [UNKNOWN]
    found = [*_changed(made.settings, wanted.settings), *_of_code(made.code, wanted.code)]
    return [*found, *_of_upstream(made.upstream, wanted.upstream)] or [UNSAID]


def read_records(path: Path) -> Records:
    """Reads the ingredients of each result's keys from `keys.json`. Returns nothing if it is missing or damaged."""
    try:
        file = TypeAdapter(_File).validate_python(read_sealed(path))
        return {
            result: {key: MadeFrom(settings, file.code[code], read) for key, (settings, code, read) in keys.items()}
            for result, keys in file.results.items()
        }
    except (UserError, ValidationError, OSError, KeyError) as error:
        log.debug("%s: %s", path, error)
        return {}


def write_records(path: Path, records: Records) -> None:
    """Writes `keys.json`."""
    file = _File({}, {})
    for result in sorted(records):
        file.results[result] = {}
        for key, made in sorted(records[result].items()):
            name = hashlib.sha256(json.dumps(made.code, sort_keys=True).encode()).hexdigest()[:12]
            file.code[name] = dict(made.code)
            file.results[result][key] = (dict(made.settings), name, dict(made.upstream))
    with published_file(path) as draft:
        draft.write_text(seal(json.dumps(asdict(file), separators=(",", ":"))), encoding="utf-8")


def in_short(texts: Iterable[str]) -> str:
    """Joins reasons on one line; of many, it gives the first ones and counts the others."""
    texts = list(dict.fromkeys(texts))
    more = f"; and {len(texts) - MOST_NAMES} more" if len(texts) > MOST_NAMES else ""
    return "; ".join(texts[:MOST_NAMES]) + more


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the path and value of everything nested; a list is one value unless it contains mappings."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        yield path, value
        return
    for name, item in items:
        yield from _leaves(item, f"{path}.{name}" if path else str(name))


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        before, after = (_shown(values[name]) if name in values else "absent" for values in (old, new))
        if (name in old) != (name in new) or _plain(old[name]) != _plain(new[name]):
            said = _is_said(old.get(name), new.get(name)) and before != after
            yield f"{name}: {before} -> {after}" if said else f"{name} changed"


def _is_said(*values: Any) -> bool:
    """Checks whether values mean something to a person; hashes do not."""
    return not any(isinstance(value, str) and len(value) == 64 and value.isalnum() for value in values)


def _plain(value: Any) -> str:
    """Writes a value as JSON, in which lists and tuples are the same."""
    return json.dumps(value, sort_keys=True)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        value = ", ".join(_shown(item) for item in value if item != "")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).strip("{}").replace('"', "")
    return (text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…") or "nothing"


def _of_code(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    modules = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if modules:
        more = f" and {len(modules) - MOST_NAMES} more modules" if len(modules) > MOST_NAMES else ""
        yield f"code of {', '.join(modules[:MOST_NAMES])}{more}"


def _of_upstream(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    changed = [name for name in new if name in old and old[name] != new[name]]
    if changed:
        # Layers are left out here: each upstream result is listed with its own reasons.
        yield f"upstream: {', '.join(dict.fromkeys(name.partition(' of ')[0] for name in changed))}"
    for word, names in (("added", set(new) - set(old)), ("left out", set(old) - set(new))):
        if names:
            yield f"{word}: {_listed(sorted(names))}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMES else f"{names[0]} and {len(names) - 1} more results"
