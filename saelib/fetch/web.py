"""Fetches one file from a URL and unpacks archives."""

import hashlib
import logging
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from saelib.config.files import WebFiles
from saelib.errors import UserError
from saelib.fetch.archive import is_archive, unpack
from saelib.fetch.cache import cache_folder, claimed
from saelib.fetch.download import download
from saelib.files.digest import file_sha256
from saelib.files.publish import published_folder

log = logging.getLogger(__name__)


def downloaded(files: WebFiles) -> Path:
    """Returns the folder in the cache with the file or the archive's contents, after fetching it if necessary.

    Raises:
        UserError: If it cannot be fetched, does not match its checksum, or is an unsafe archive.
    """
    if folder := cached(files):
        return folder
    place = _place(files)
    with claimed(place):
        if folder := cached(files):  # another process was faster
            return folder
        partial = place / "partial" / _name(files)
        download(files.url, partial, pinned=files.sha256 is not None)
        try:
            found = _check_sum(files, partial)
            with published_folder(place / found) as draft:
                if is_archive(partial.name):
                    unpack(partial, partial.name, draft)
                else:
                    os.replace(partial, draft / partial.name)
        finally:
            shutil.rmtree(partial.parent)
    return place / found


def cached(files: WebFiles) -> Path | None:
    """Returns the folder in the cache, named by the download's SHA-256, or None. Without `sha256`, the latest one."""
    folders = [path for path in _place(files).glob("*") if re.fullmatch("[0-9a-f]{64}", path.name)]
    if files.sha256:
        folders = [path for path in folders if path.name == files.sha256]
    return max(folders, key=lambda path: path.stat().st_mtime_ns, default=None)


def _place(files: WebFiles) -> Path:
    return cache_folder() / "web" / f"{_name(files)}-{hashlib.sha256(files.url.encode()).hexdigest()[:12]}"


def _name(files: WebFiles) -> str:
    """Returns the last part of the URL as a file name that is valid on every system."""
    last = unquote(PurePosixPath(urlsplit(files.url).path).name)
    return re.sub(r"[^\w.+=-]", "_", last).lstrip(".")[-100:] or "download"


def _check_sum(files: WebFiles, partial: Path) -> str:
    found = file_sha256(partial)
    if files.sha256 is None:
        size = partial.stat().st_size
        log.warning("%s: %d bytes. To pin this file, add to the config: sha256: %s", files.url, size, found)
    elif found != files.sha256:
        raise UserError(f"{files.url}: its sha256 is {found}, but the config says {files.sha256}")
    return found
