"""Download one file over HTTP or FTP, resuming after a broken connection."""

import logging
import shutil
import time
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from saelib.errors import UserError
from saelib.progress import progress

log = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts; counted anew when something has arrived."""
TIMEOUT_SECONDS = 60.0
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which it is worth asking again."""
CHUNK = 1 << 20


def download(url: str, target: Path, pinned: bool) -> None:
    """Bring what lies at `url` to `target`. After an error `target` holds what has arrived, for the next call.

    Args:
        url: http, https or ftp. FTP begins anew after a break.
        target: a file of no use until this returns; another beside it says which version it is of.
        pinned: whether a checksum will be compared, so that a part without a mark of its version may be continued.

    Raises:
        UserError: where the server refuses, cannot be reached or breaks off again and again, or the disk is too small.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    attempt = 0
    while True:
        before = _size(target)
        try:
            return _attempt(url, target, pinned)
        except HTTPError as error:
            if error.code == 416 and before:  # nothing is left to send, or the file has become shorter
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
        log.info("%s: broken off (%s), trying again", url, reason)
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
            raise UserError(f"{url}: the server sent another part than it was asked for")
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        _check_room(url, int(length or 0), target)
        mark.write_text(_version(answer.headers))
        _receive(answer, target, have, total)
    if total is not None and _size(target) != total:
        raise ConnectionError(f"{_size(target)} of {total} bytes arrived")


def _receive(answer: Any, target: Path, have: int, total: int | None) -> None:
    """Append the answer to the first `have` bytes of `target`."""
    with target.open("ab") as stream, progress(f"fetch {target.name}", total or 0, "bytes", log) as advance:
        stream.truncate(have)
        while chunk := answer.read(CHUNK):
            stream.write(chunk)
            if total:
                advance(len(chunk))


def _version(headers: Any) -> str:
    """What `If-Range` takes to make sure that a part belongs to the same version of the file."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _check_room(url: str, needed: int, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise UserError(f"{url}: needs {needed >> 20} MB in {target.parent}, where {free >> 20} MB are free")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
