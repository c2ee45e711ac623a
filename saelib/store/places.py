"""The two kinds of places for a store: a folder, or object storage (`remote`)."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from saelib.errors import UserError
from saelib.files.publish import published_folder, remove_drafts
from saelib.store import remote
from saelib.store.layout import SPLITS, StoreMetadata, chunk_names, metadata_of

if TYPE_CHECKING:  # its packages are optional
    from saelib.store.s3 import S3Folder

Place: TypeAlias = "Path | S3Folder"
"""A place that zarr reads from and writes to; `place / name` is a place inside it."""


def find(location: Path | str) -> Place:
    """Returns the place of a finished store. Raises `UserError` if there is none."""
    if remote.is_url(location):
        return remote.published(str(location))
    if not Path(location).is_dir():
        raise UserError(f"{location}: no such store")
    return Path(location)


def read_metadata(place: Place, location: Path | str) -> StoreMetadata:
    """Reads and checks the metadata of a store. Raises `UserError` if they are missing, unfinished or corrupt."""
    try:
        attributes = _attributes(place)
    except FileNotFoundError:
        raise UserError(f"{location}: not a store, or one that was never finished (no zarr.json)") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{location}: corrupt metadata (zarr.json is not valid); extract it again") from None
    return metadata_of(attributes, location)


def missing_chunks(place: Place, metadata: StoreMetadata) -> list[str]:
    """Returns the names of missing chunks, which zarr would silently read as NaN."""
    if isinstance(place, Path):
        return [name for name in chunk_names(metadata) if not (place / name).is_file()]
    there = place.names()
    return [name for name in chunk_names(metadata) if name not in there]


def read_key(location: Path | str) -> str | None:
    """Reads the key of a store without opening its arrays; None if there is no finished store."""
    return read_keys([location])[location]


def read_keys(locations: Iterable[Path | str]) -> dict[Path | str, str | None]:
    """Reads the keys of many stores; one request lists all those of a suite on object storage."""
    keys: dict[Path | str, str | None] = dict.fromkeys(locations)
    keys |= remote.read_keys(str(location) for location in keys if remote.is_url(location))
    for location in keys:
        if not remote.is_url(location):
            keys[location] = _local_key(Path(location))
    return keys


def _local_key(path: Path) -> str | None:
    try:
        return read_metadata(path, path).key
    except (OSError, AttributeError, UserError):
        return None


@contextmanager
def published_stores(locations: Mapping[int, Path | str], keys: Mapping[int, str]) -> Iterator[dict[int, Place]]:
    """Yields a place to write to for each layer. They become the stores when the block ends without an error.

    Args:
        locations: Layer -> location of its store.
        keys: Layer -> key that its store will have.
    """
    for folder in {Path(location).parent for location in locations.values() if not remote.is_url(location)}:
        remove_drafts(folder)
    with ExitStack() as stack:
        yield {layer: stack.enter_context(_published(locations[layer], keys[layer])) for layer in locations}


def _published(location: Path | str, key: str) -> Any:
    if remote.is_url(location):
        return remote.published_generation(str(location), key)
    return published_folder(Path(location))


def move(source: Place, target: Place) -> None:
    """Replaces one array by another."""
    if isinstance(source, Path) and isinstance(target, Path):
        shutil.rmtree(target)
        source.rename(target)
    elif not isinstance(source, Path) and not isinstance(target, Path):
        source.replace(target)


def remove_store(location: Path | str) -> None:
    """Deletes a store, intact or damaged, so that it is extracted again. Raises `UserError` if there is none."""
    find(location)
    if remote.is_url(location):
        remote.remove(str(location))
        return
    folder = Path(location)
    if _local_key(folder) is None and not any((folder / split / "acts").is_dir() for split in SPLITS):
        raise UserError(f"{location}: not a store, so it is left alone")
    # The metadata go first: a process that is killed in between leaves no store, rather than one that lacks chunks.
    (folder / "zarr.json").unlink(missing_ok=True)
    shutil.rmtree(folder)


def _attributes(place: Place) -> Any:
    contents = (place / "zarr.json").read_bytes() if isinstance(place, Path) else place.read_bytes("zarr.json")
    return json.loads(contents)["attributes"]
