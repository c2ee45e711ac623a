"""Computes the SHA-256 of files, to verify downloads and detect damaged results."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Computes the SHA-256 of a file's content as 64 hexadecimal digits; files of any size are streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
