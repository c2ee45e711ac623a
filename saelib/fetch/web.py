"""One file at an address, or the archive there unpacked."""

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
    """The folder in the cache that holds the file, or the archive's contents; fetched if need be.

    Raises:
        UserError: where it cannot be had, is not what its checksum says, or is an archive that cannot be trusted.
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
    """The folder in the cache, named by the download's sum, where it is there. Without `sha256`: the last one."""
    folders = [path for path in _place(files).glob("*") if re.fullmatch("[0-9a-f]{64}", path.name)]
    if files.sha256:
        folders = [path for path in folders if path.name == files.sha256]
    return max(folders, key=lambda path: path.stat().st_mtime_ns, default=None)


def _place(files: WebFiles) -> Path:
    return cache_folder() / "web" / f"{_name(files)}-{hashlib.sha256(files.url.encode()).hexdigest()[:12]}"


def _name(files: WebFiles) -> str:
    """The address' last part, as a file name that every system takes."""
    last = unquote(PurePosixPath(urlsplit(files.url).path).name)
    return re.sub(r"[^\w.+=-]", "_", last).lstrip(".")[-100:] or "download"


def _check_sum(files: WebFiles, partial: Path) -> str:
    found = file_sha256(partial)
    if files.sha256 is None:
        size = partial.stat().st_size
        log.warning("%s: %d bytes. So that it stays the same, put into the config: sha256: %s", files.url, size, found)
    elif found != files.sha256:
        raise UserError(f"{files.url}: its sha256 is {found}, but the config says {files.sha256}")
    return found
