"""Unpacks archives without trusting them."""

import errno
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from saelib.errors import UserError
from saelib.fetch.cache import check_room

TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}
"""First bytes of a compressed file -> the function that opens it."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
CHUNK = 1 << 20
"""Bytes read at once."""
DAMAGE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # raised by zipfile if a header names a version or a feature that it does not know
    ValueError,  # raised for a name that is not UTF-8 or contains a zero byte
    IndexError,  # raised by zipfile for an empty name
)


def is_archive(name: str) -> bool:
    """Checks by its name whether a file is unpacked. Its content does not tell: `.pt` and `.npz` are zip files too."""
    return name.lower().endswith((*TARS, ".zip"))


def unpack(archive: Path, name: str, target: Path) -> None:
    """Unpacks `archive`, which messages call `name`, into the folder `target`.

    Raises:
        UserError: If a member leads outside `target`, or is a link or a device, or if the disk is too small; nothing is
            written then. Also if the archive is damaged; a tar without compression has checksums only of its headers.
    """
    try:
        if name.lower().endswith(TARS):
            _unpack_tar(archive, name, target)
        else:
            _unpack_zip(archive, name, target)
    except DAMAGE as error:
        raise _damaged(name, error) from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # raised for an offset in a header that leads to before the file
            raise _damaged(name, error) from None
        raise


def _damaged(name: str, error: Exception) -> UserError:
    return UserError(f"{name}: not an archive that can be read, or damaged ({error})")


def _unpack_tar(path: Path, name: str, target: Path) -> None:
    with _decompressed(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        members = archive.getmembers()
        for member in members:
            _check_member(name, member.name, is_plain=member.isreg() or member.isdir())
        check_room(name, sum(member.size for member in members), target.parent)
        while stream.read(CHUNK):  # tarfile stops at the last member; gzip compares its checksum at the end
            pass
        archive.extractall(target, filter="data")


def _decompressed(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        head = stream.read(6)
    opens = next((opens for mark, opens in COMPRESSIONS.items() if head.startswith(mark)), None)
    return cast(BinaryIO, opens(path)) if opens else path.open("rb")


def _unpack_zip(path: Path, name: str, target: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.flag_bits & 1:
                raise UserError(f"{name}: refused, because its member '{member.filename}' is encrypted")
            if member.compress_type not in METHODS:
                raise UserError(f"{name}: refused, because its member '{member.filename}' is not compressed by deflate")
            _check_member(name, member.orig_filename, is_plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
        check_room(name, sum(member.file_size for member in members), target.parent)
        archive.extractall(target)


def _check_member(archive: str, member: str, is_plain: bool) -> None:
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or re.match("[A-Za-z]:", member):
        raise UserError(f"{archive}: refused, because its member '{member}' leads outside of it")
    if not is_plain:
        raise UserError(f"{archive}: refused, because its member '{member}' is a link or a device, not a file")
