"""Finished stores on object storage, where nothing can be renamed: which of the written ones count.

    s3://bucket/prefix/{model}/layer_{i}.zarr/{generation}/...            a zarr group, one for each time it was written
    s3://bucket/prefix/_published/{model}/layer_{i}.zarr/{key}.{generation}   empty: this generation is whole

A writer makes a generation of its own, so that two writers never touch the same object, checks that all of it is there
and writes the mark, one small object, last. Without a mark a generation does not count. The marks' names say all that
planning needs, so one listing tells the keys of a whole suite. Where there are two marks, the later one counts; its
writer removes the other, with its generation.
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

if TYPE_CHECKING:  # its packages are an extra
    from saelib.store.s3 import S3Folder

# Nobody can tell a killed writer from a slow one but by its silence.
ABANDONED_AFTER = timedelta(days=1)
MARKS = "_published"


@dataclass(frozen=True)
class StoreUrl:
    """`s3://bucket/prefix/model/layer_3.zarr`, taken apart."""

    bucket: str
    prefix: str
    """Of the whole suite, without slashes at its ends; may be empty."""
    name: str
    """`model/layer_3.zarr`"""

    def __str__(self) -> str:
        """As it was given."""
        return f"s3://{self.bucket}/{self.path}"

    @property
    def path(self) -> str:
        """Where its generations lie."""
        return f"{self.prefix}/{self.name}".lstrip("/")

    @property
    def marks(self) -> str:
        """Where the marks of the whole suite lie."""
        return f"{self.prefix}/{MARKS}".lstrip("/")


@dataclass(frozen=True, order=True)
class Mark:
    """One generation that was published. The largest is the latest."""

    written: datetime
    key: str
    generation: str

    @property
    def file(self) -> str:
        """Name of the object."""
        return f"{self.key}.{self.generation}"


def is_url(location: object) -> bool:
    """Whether this names object storage, and not a path."""
    return str(location).startswith("s3://")


def parse_url(url: str) -> StoreUrl:
    """Take an address apart. Raises `UserError` where it is no store's."""
    parts = url.removeprefix("s3://").rstrip("/").split("/")
    if len(parts) < 3 or not all(parts) or not url.endswith(".zarr") or "@" in url:
        raise UserError("a store's address is s3://bucket/prefix/model/layer_3.zarr; credentials have no place in it")
    return StoreUrl(parts[0], "/".join(parts[1:-2]), "/".join(parts[-2:]))


def read_keys(urls: Iterable[str]) -> dict[str, str]:
    """The keys of those stores that are published; one listing for all that share a prefix."""
    stores = {url: parse_url(url) for url in urls}
    marks = {place: _marks(_open(*place)) for place in {(one.bucket, one.marks) for one in stores.values()}}
    found = {url: marks[one.bucket, one.marks].get(one.name) for url, one in stores.items()}
    return {url: max(several).key for url, several in found.items() if several}


def published(url: str) -> "S3Folder":
    """The generation of a store that counts. Raises `UserError` where none was published."""
    store = parse_url(url)
    marks = _marks_of(store)
    if not marks:
        raise UserError(f"{url}: no such store, or one that was never finished")
    return _open(store.bucket, store.path) / max(marks).generation


@contextmanager
def published_generation(url: str, key: str) -> Iterator["S3Folder"]:
    """Give a place to write a store to; it counts when the block ends without an error.

    Raises:
        UserError: where the server cannot be reached, or objects that were written are not there at the end.
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
        raise  # nothing can be removed either; it does not count, and a later writer removes it
    except BaseException:
        folder.remove(folder.names())
        raise


def remove(url: str) -> None:
    """Delete a store: its marks first, then every generation."""
    store = parse_url(url)
    for folder in (_open(store.bucket, store.marks) / store.name, _open(store.bucket, store.path)):
        folder.remove(folder.names())


def _open(bucket: str, path: str) -> "S3Folder":
    from saelib.store.s3 import open_bucket

    return open_bucket(bucket) / path


def _marks(folder: "S3Folder") -> dict[str, list[Mark]]:
    """Name of a store -> its marks, for everything below a place."""
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
        raise UserError(f"{folder}: {len(missing)} chunks were written and are gone, the first is {missing[0]}")


def _clean(store: StoreUrl) -> None:
    """Remove what newer stores have replaced, and what killed writers left."""
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
