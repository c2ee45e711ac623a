"""Why a result is stale: what it was made from, against what it should be made from.

A key is a hash and tells only that something changed. `results/keys.json` says what each key was made from; the
process that controls a run writes it when the run starts, for every result that is there and every one it wants.
It decides nothing: without it results are as fresh as with it, and only the reasons are poorer.
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

UNKNOWN = "made by another version of saelib, or elsewhere: what it was made from is not recorded"
UNSAID = "something that it was made from"
MISSING, DAMAGED = "missing", "damaged or unfinished"
UNFINISHED = ""
"""The key of a report that lacks results: nothing ever wants it, so the next run makes the report again."""
MOST_NAMES = 3
"""Modules or results that a reason names; of more it gives the number."""
LONGEST_VALUE = 40


@dataclass(frozen=True)
class MadeFrom:
    """What a key is a hash of, in words that a person knows."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """By their keys in the config, such as 'train.k'."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Module -> a hash of it."""
    upstream: Mapping[str, str] = field(default_factory=dict)
    """What it reads, such as 'stats of calm layer 1' -> its key."""


Records = Mapping[str, Mapping[str, MadeFrom]]
"""Result, such as 'stats of calm layer 1' -> its keys: the one that it carries and the one that is wanted."""


@dataclass(frozen=True)
class _File:
    """`keys.json`. Results of a stage share most of their code, so each set of modules stands there once."""

    code: dict[str, dict[str, str]]
    results: dict[str, dict[str, tuple[dict[str, Any], str, dict[str, str]]]]
    """Result -> key -> settings, a name under `code`, upstream."""


def named(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Nested settings as one flat mapping.

    Args:
        settings: what JSON can hold.
        names: 'a.b' -> what stands in its place in the names of that value and of all below it; '' stands for all.
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
    """Why a result that does not carry the wanted key is made again.

    Args:
        key: that it carries; None where it has none that can be read.
        there: whether anything lies in its place.
        wanted: what it should be made from.
        known: what its keys were made from, as far as that is recorded.
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
    """What each result's keys were made from, as far as `keys.json` says. Empty where it is missing or damaged."""
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
    """Publish `keys.json`."""
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
    """Several reasons on one line; of many, the first ones and how many there are."""
    texts = list(dict.fromkeys(texts))
    more = f"; and {len(texts) - MOST_NAMES} more" if len(texts) > MOST_NAMES else ""
    return "; ".join(texts[:MOST_NAMES]) + more


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of everything nested; a list counts as one value, unless mappings are in it."""
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
    """Whether values tell a person something: hashes do not."""
    return not any(isinstance(value, str) and len(value) == 64 and value.isalnum() for value in values)


def _plain(value: Any) -> str:
    """As it is after a way through JSON, which knows no tuples."""
    return json.dumps(value, sort_keys=True)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).strip("[]{}").replace('"', "")
    return (text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…") or "nothing"


def _of_code(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    modules = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if modules:
        more = f" and {len(modules) - MOST_NAMES} more modules" if len(modules) > MOST_NAMES else ""
        yield f"code of {', '.join(modules[:MOST_NAMES])}{more}"


def _of_upstream(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    changed = [name for name in new if name in old and old[name] != new[name]]
    if changed:
        # The layers are named where their own results are.
        yield f"upstream: {', '.join(dict.fromkeys(name.partition(' of ')[0] for name in changed))}"
    for word, names in (("added", set(new) - set(old)), ("left out", set(old) - set(new))):
        if names:
            yield f"{word}: {_listed(sorted(names))}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMES else f"{names[0]} and {len(names) - 1} more results"
