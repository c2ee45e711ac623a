"""Locates, locks and checks the cache of fetched files, which several processes may share."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from saelib.errors import UserError
from saelib.files.publish import remove_drafts


def cache_folder() -> Path:
    """Returns `$SAELIB_CACHE`, or the platform's folder for caches (`~/.cache/saelib` on Linux)."""
    return Path(os.environ.get("SAELIB_CACHE") or platformdirs.user_cache_path("saelib"))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Locks a folder of the cache, and removes drafts that killed processes left in it.

    If two processes ask at once, one fetches, and the other waits and then looks again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        remove_drafts(folder)
        yield


def check_room(name: str, needed: int, folder: Path) -> None:
    """Raises `UserError` if `name`, which takes `needed` bytes, does not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{name}: needs {needed >> 20} MB in {folder}, but {free >> 20} MB are free")
