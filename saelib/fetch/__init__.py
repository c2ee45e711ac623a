"""Fetches files that a config names, from a path, a Python wheel, the Hugging Face hub or the web."""

import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from saelib.config.base import Section
from saelib.config.files import FilesConfig, HubFiles, LocalFiles, WebFiles, Wheel
from saelib.errors import UserError
from saelib.fetch import hub, web, wheel
from saelib.fetch.cache import cache_folder

if TYPE_CHECKING:  # at run time this would be circular: the config's types read the sizes of cached models
    from saelib.config import Config

log = logging.getLogger(__name__)


def fetch(files: FilesConfig) -> Path:
    """Returns the one local file or folder that `files` names, after downloading it into the cache if necessary.

    Raises:
        UserError: If it cannot be fetched, does not match its checksum, or is not exactly one.
    """
    found = fetch_paths(files)
    if len(found) != 1:
        shown = ", ".join(path.name for path in found[:5])
        raise UserError(f"{describe(files)}: should be one file or folder, but {len(found)} match ({shown}, ...)")
    return found[0]


def fetch_paths(files: FilesConfig) -> list[Path]:
    """Returns every local file or folder that `files` names, sorted, without listing folders.

    Raises:
        UserError: If they cannot be fetched, do not match their checksum, or if there are none.
    """
    if isinstance(files, LocalFiles):
        path = files.path.expanduser()
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        return [path]
    if _leaves(files.inside):
        raise UserError(f"{describe(files)}: leads outside the downloaded files")
    if isinstance(files, Wheel):
        root = wheel.unpacked(files)
    else:
        root = hub.snapshot(files) if isinstance(files, HubFiles) else web.downloaded(files)
    found = _inside(root, files.inside)
    if not found:
        top = ", ".join(sorted(path.name for path in root.iterdir()))
        raise UserError(f"{describe(files)}: no such file or folder; at the top are: {top}")
    return found


def fetch_suite(config: "Config") -> list[str]:
    """Fetches every file that a suite names. Returns the reasons for those that cannot be fetched, one line each."""
    failed: dict[str, None] = {}
    for part in (*(model.source for model in config.models.values()), *config.datasets.values()):
        for files in named_files(part):
            try:
                fetch_paths(files)
            except UserError as error:
                failed[str(error)] = None
    for name, dataset in config.datasets.items():
        if getattr(dataset, "hub", None):
            log.warning("%s: streamed from the hub, so its jobs need a network", name)
    return list(failed)


def is_cached(files: FilesConfig) -> bool:
    """Checks, without verifying them, whether `files` are on this machine and `fetch` would need no network."""
    if isinstance(files, LocalFiles):
        return files.path.expanduser().exists()
    if isinstance(files, Wheel):
        return wheel.contents_folder(files).is_dir()
    return hub.is_cached(files) if isinstance(files, HubFiles) else web.cached(files) is not None


def local(files: FilesConfig) -> Path | None:
    """Returns the result of `fetch` if it is on this machine, else None. It verifies nothing and uses no network."""
    if isinstance(files, LocalFiles):
        path = files.path.expanduser()
        return path if path.exists() else None
    if isinstance(files, Wheel):
        root: Path | None = wheel.contents_folder(files)
    else:
        root = hub.cached(files) if isinstance(files, HubFiles) else web.cached(files)
    if root is None or not root.is_dir() or _leaves(files.inside):
        return None
    found = _inside(root, files.inside)
    return found[0] if len(found) == 1 else None


def _leaves(inside: str) -> bool:
    return ".." in PurePosixPath(inside).parts or inside.startswith("/")


def _inside(root: Path, pattern: str) -> list[Path]:
    return [root] if pattern == "." else sorted(root.glob(pattern))


def named_files(part: Section) -> Iterator[FilesConfig]:
    """Yields the files that a model's source or a data set names under any of its keys."""
    for field in type(part).model_fields:
        value = getattr(part, field)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Wheel | HubFiles | LocalFiles | WebFiles):
                yield item


def describe(files: FilesConfig) -> str:
    """Returns the name of files in messages."""
    if isinstance(files, LocalFiles):
        return str(files.path)
    inside = f", inside '{files.inside}'" if files.inside != "." else ""
    if isinstance(files, Wheel):
        return f"{files.pypi} ({files.wheel}{inside})"
    name = hub.describe(files) if isinstance(files, HubFiles) else files.url
    return name + inside


__all__ = ["cache_folder", "describe", "fetch", "fetch_paths", "fetch_suite", "is_cached", "local", "named_files"]
