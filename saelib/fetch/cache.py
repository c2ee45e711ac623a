"""The cache of fetched files, which several processes may share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from saelib.files.publish import remove_drafts


def cache_folder() -> Path:
    """`$SAELIB_CACHE`, or the platform's place for caches (`~/.cache/saelib` on Linux)."""
    return Path(os.environ.get("SAELIB_CACHE") or platformdirs.user_cache_path("saelib"))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder of the cache alone; what killed processes left half written in it is gone.

    Two processes may ask at once: one fetches, the other waits and then looks again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        remove_drafts(folder)
        yield
