"""Stores on object storage. Nothing can be renamed there, so a small object marks a store as published.

    s3://bucket/prefix/{model}/layer_{i}.zarr/{generation}/...            a zarr group, one for each time it was written
    s3://bucket/prefix/_published/{model}/layer_{i}.zarr/{key}.{generation}   the mark: an empty object

A writer makes a generation of its own, so two writers never touch the same object. It checks that all of its objects
exist and then writes the mark. A generation without a mark does not count. The names of the marks hold all that
planning needs, so one listing gives the keys of a whole suite. If there are two marks, the later one counts; its writer
removes the other mark and its generation.
"""

import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from saelib.errors import UserError
from saelib.store.layout import chunk_names, metadata_of

if TYPE_CHECKING:  # its packages are optional
    from saelib.store.s3 import S3Folder

ABANDONED_AFTER = timedelta(days=1)
"""A writer that has written nothing for so long was killed; a slow one looks the same until then."""
MARKS = "_published"


@dataclass(frozen=True)
class StoreUrl:
    """The parts of a store's address, `s3://bucket/prefix/model/layer_3.zarr`."""

    bucket: str
    prefix: str
    """The prefix of the whole suite, without slashes at its ends; may be empty."""
    name: str
    """The name of the store, such as `model/layer_3.zarr`."""

    def __str__(self) -> str:
        """Returns the address."""
        return f"s3://{self.bucket}/{self.path}"

    @property
    def path(self) -> str:
        """The prefix of its generations."""
        return f"{self.prefix}/{self.name}".lstrip("/")

    @property
    def marks(self) -> str:
        """The prefix of the marks of the whole suite."""
        return f"{self.prefix}/{MARKS}".lstrip("/")


@dataclass(frozen=True, order=True)
class Mark:
    """The mark of a published generation. The largest mark is the latest."""

    written: datetime
    key: str
    generation: str

    @property
    def file(self) -> str:
        """The name of the object."""
        return f"{self.key}.{self.generation}"


def is_url(location: object) -> bool:
    """Tells whether a location is on object storage rather than a path."""
    return str(location).startswith("s3://")


def parse_url(url: str) -> StoreUrl:
    """Splits an address into its parts. Raises `UserError` if it is not the address of a store."""
    parts = url.removeprefix("s3://").rstrip("/").split("/")
    if len(parts) < 3 or not all(parts) or not url.endswith(".zarr") or "@" in url:
        raise UserError("a store's address is s3://bucket/prefix/model/layer_3.zarr, without credentials in it")
    return StoreUrl(parts[0], "/".join(parts[1:-2]), "/".join(parts[-2:]))


def read_keys(urls: Iterable[str]) -> dict[str, str]:
    """Returns the keys of those stores that are published, by one listing for all that share a prefix."""
    stores = {url: parse_url(url) for url in urls}
    marks = {place: _marks(_open(*place)) for place in {(one.bucket, one.marks) for one in stores.values()}}
    found = {url: marks[one.bucket, one.marks].get(one.name) for url, one in stores.items()}
    return {url: max(several).key for url, several in found.items() if several}


def published(url: str) -> "S3Folder":
    """Returns the latest published generation of a store. Raises `UserError` if none was published."""
    store = parse_url(url)
    marks = _marks_of(store)
    if not marks:
        raise UserError(f"{url}: no such store, or one that was never finished")
    return _open(store.bucket, store.path) / max(marks).generation


@contextmanager
def published_generation(url: str, key: str) -> Iterator["S3Folder"]:
    """Yields a place to write a store to, and publishes it when the block ends without an error.

    Raises:
        UserError: if the server cannot be reached, or objects that were written are missing at the end.
    """
    from saelib.store.s3 import Unreachable

    store, generation = parse_url(url), secrets.token_hex(8)
    folder = _open(store.bucket, store.path) / generation
    try:
        yield folder
        _check_whole(folder)
        _open(store.bucket, store.marks).write_bytes(f"{store.name}/{key}.{generation}", b"")
        _clean(store)
    except Unreachable:
        raise  # nothing can be removed either; without a mark it does not count, and a later writer removes it
    except BaseException:
        folder.remove(folder.names())
        raise


def remove(url: str) -> None:
    """Deletes a store: first its marks, then every generation."""
    store = parse_url(url)
    for folder in (_open(store.bucket, store.marks) / store.name, _open(store.bucket, store.path)):
        folder.remove(folder.names())


def _open(bucket: str, path: str) -> "S3Folder":
    from saelib.store.s3 import open_bucket

    return open_bucket(bucket) / path


def _marks(folder: "S3Folder") -> dict[str, list[Mark]]:
    """Returns the marks below a place, by the name of their store."""
    found: dict[str, list[Mark]] = {}
    for path, written in folder.names().items():
        name, _, file = path.rpartition("/")
        key, _, generation = file.rpartition(".")
        found.setdefault(name, []).append(Mark(written, key, generation))
    return found


def _marks_of(store: StoreUrl) -> list[Mark]:
    return _marks(_open(store.bucket, store.marks) / store.name).get("", [])


def _check_whole(folder: "S3Folder") -> None:
    metadata = metadata_of(json.loads(folder.read_bytes("zarr.json"))["attributes"], str(folder))
    there = folder.names()
    missing = [name for name in chunk_names(metadata) if name not in there]
    if missing:
        raise UserError(f"{folder}: {len(missing)} chunks were written but are gone, the first is {missing[0]}")


def _clean(store: StoreUrl) -> None:
    """Removes generations that newer ones have replaced, and those that killed writers left."""
    marks, folder = sorted(_marks_of(store)), _open(store.bucket, store.path)
    _open(store.bucket, store.marks).remove(f"{store.name}/{mark.file}" for mark in marks[:-1])
    generations: dict[str, list[str]] = {}
    newest: dict[str, datetime] = {}
    for name, written in folder.names().items():
        generation = name.partition("/")[0]
        generations.setdefault(generation, []).append(name)
        newest[generation] = max(written, newest.get(generation, written))
    replaced = {mark.generation for mark in marks[:-1]}
    counting = {mark.generation for mark in marks[-1:]}
    for generation, names in generations.items():
        abandoned = generation not in counting and datetime.now(UTC) - newest[generation] > ABANDONED_AFTER
        if generation in replaced or abandoned:
            folder.remove(names)
