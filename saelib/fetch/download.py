"""Downloads one file over HTTP or FTP, and resumes after a broken connection."""

import logging
import time
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from saelib.errors import UserError
from saelib.fetch.cache import check_room
from saelib.progress import progress

log = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts. They start over whenever something has arrived."""
TIMEOUT_SECONDS = 60.0
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP status codes after which it is worth trying again."""
CHUNK = 1 << 20


def download(url: str, target: Path, pinned: bool) -> None:
    """Downloads `url` to `target`. After an error, `target` keeps the part that has arrived for the next call.

    Args:
        url: An http, https or ftp URL. FTP starts over after a broken connection.
        target: The file to write, incomplete until this returns. A file next to it records which version it is.
        pinned: Whether a checksum will be compared, so that a part of unknown version may be continued.

    Raises:
        UserError: If the server refuses, cannot be reached or breaks off repeatedly, or if the disk is too small.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    attempt = 0
    while True:
        before = _size(target)
        try:
            return _attempt(url, target, pinned)
        except HTTPError as error:
            if error.code == 416 and before:  # the file is complete, or has become shorter
                if error.headers.get("Content-Range") == f"bytes */{before}":
                    return None
                target.unlink()
            elif error.code not in BUSY:
                raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
            reason = f"{error.code} {error.reason}"
        except (URLError, HTTPException, TimeoutError, ConnectionError, SSLError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        attempt = 0 if _size(target) > before else attempt + 1
        if attempt == len(PAUSES):
            kept = f"; {_size(target) >> 20} MB have arrived and are kept for the next attempt" if _size(target) else ""
            raise UserError(f"{url}: could not be downloaded ({reason}){kept}")
        log.info("%s: interrupted (%s), trying again", url, reason)
        time.sleep(PAUSES[attempt])


def _attempt(url: str, target: Path, pinned: bool) -> None:
    request = Request(url, headers={"User-Agent": "saelib"})
    mark = target.with_name(f"{target.name}.version")
    version = mark.read_text() if mark.is_file() else ""
    have = _size(target)
    if have and (version or pinned):
        request.add_header("Range", f"bytes={have}-")
        if version:
            request.add_header("If-Range", version)
    with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        if getattr(answer, "status", None) != 206:  # the whole file
            have = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise UserError(f"{url}: the server sent a different part of the file than requested")
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        check_room(url, int(length or 0), target.parent)
        mark.write_text(_version(answer.headers))
        _receive(answer, target, have, total)
    if total is not None and _size(target) != total:
        raise ConnectionError(f"{_size(target)} of {total} bytes arrived")


def _receive(answer: Any, target: Path, have: int, total: int | None) -> None:
    """Appends the answer to the first `have` bytes of `target`."""
    with target.open("ab") as stream, progress(f"fetch {target.name}", total or 0, "bytes", log) as advance:
        stream.truncate(have)
        while chunk := answer.read(CHUNK):
            stream.write(chunk)
            if total:
                advance(len(chunk))


def _version(headers: Any) -> str:
    """Returns the value for `If-Range`, by which the server continues a part only if the file has not changed."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
