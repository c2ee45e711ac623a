"""Archives from any address: they are unpacked, or refused before anything is written."""

import gzip
import io
import shutil
import tarfile
import zipfile
from functools import partial

import pytest

from saelib.config.files import WebFiles
from saelib.errors import UserError
from saelib.fetch import fetch, is_cached
from tests.fetch.web_server import DATA, files_of, leftovers


def tar_of(members, mode="w:gz") -> bytes:
    """An archive of (name, content) or of `TarInfo`."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for member in members:
            info, content = (
                (member, b"") if isinstance(member, tarfile.TarInfo) else (tarfile.TarInfo(member[0]), member[1])
            )
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_of(members, method=zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("set.tar", partial(tar_of, mode="w")),
        ("set.tar.gz", tar_of),
        ("set.tgz", tar_of),
        ("set.tar.xz", partial(tar_of, mode="w:xz")),
        ("set.ZIP", zip_of),
    ],
)
def test_archives_are_unpacked(server, name, pack):
    server.content = pack([("set/a.bin", b"a"), ("set/b.bin", b"b"), ("notes", b"x")])
    files = WebFiles(url=server.url(name), inside="set/*.bin")
    assert [path.read_bytes() for path in files_of(files)] == [b"a", b"b"]
    assert not leftovers()
    with pytest.raises(UserError, match=r"inside 'nowhere': no such file or folder; at the top are: notes, set"):
        fetch(WebFiles(url=server.url(name), inside="nowhere"))
    with pytest.raises(UserError, match="leads outside the downloaded files"):
        fetch(WebFiles(url=server.url(name), inside="../set"))
    assert len(server.asked) == 1


def test_what_only_looks_like_an_archive_stays_as_it_is(server):
    # A checkpoint written by torch is a zip file, and a gzipped FASTA file is no tar.
    for name, content in {"model.pt": zip_of([("a", b"a")]), "seqs.fa.gz": gzip.compress(b">a\nMKV\n")}.items():
        server.content = content
        (path,) = files_of(WebFiles(url=server.url(name)))
        assert (path.name, path.read_bytes()) == (name, content)


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tar.gz", tar_of([("good", b"x"), ("../escape", b"x")])),
        ("x.tar.xz", tar_of([("good", b"x"), ("../escape", b"x")], "w:xz")),
        ("x.tar.gz", tar_of([("good", b"x"), ("a/../../escape", b"x")])),
        ("x.tar.gz", tar_of([("good", b"x"), ("/tmp/escape", b"x")])),
        ("x.tar.gz", tar_of([("good", b"x"), special(tarfile.SYMTYPE, "/etc/passwd")])),
        ("x.tar.gz", tar_of([("good", b"x"), special(tarfile.SYMTYPE, "good")])),
        ("x.tar.gz", tar_of([("good", b"x"), special(tarfile.LNKTYPE, "good")])),
        ("x.tar.gz", tar_of([("good", b"x"), special(tarfile.CHRTYPE)])),
        ("x.tar.gz", tar_of([("good", b"x"), special(tarfile.FIFOTYPE)])),
        ("x.zip", zip_of([("good", b"x"), ("../escape", b"x")])),
        ("x.zip", zip_of([("good", b"x"), ("/tmp/escape", b"x")])),
    ],
)
def test_evil_members_are_refused_before_anything_is_written(server, monkeypatch, name, content):
    server.content = content
    files = WebFiles(url=server.url(name))
    monkeypatch.setattr(tarfile.TarFile, "extractall", None)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", None)
    with pytest.raises(UserError, match="refused, because its member"):
        fetch(files)
    assert not is_cached(files)
    assert not leftovers()


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.xz", "x.tar", "x.zip"])
@pytest.mark.parametrize(
    "content",
    [DATA, tar_of([("a", DATA)])[:-5000], tar_of([("a", DATA)], "w:xz")[:-5000], zip_of([("a", DATA)])[:-5000]],
)
def test_a_damaged_archive_is_refused(server, name, content):
    server.content = content
    with pytest.raises(UserError, match="not an archive that can be read"):
        fetch(WebFiles(url=server.url(name)))
    assert not leftovers()


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def with_byte(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + 1 :]


ZIP = zip_of([("a", DATA)])
DIRECTORY = ZIP.rindex(b"PK\x01\x02")
UTF8 = with_byte(ZIP, DIRECTORY + 9, b"\x08")
"""The same, with a flag that says that its names are UTF-8."""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tgz", flipped(tar_of([("a", DATA)]), 150_000)),
        ("x.tgz", flipped(tar_of([("a", DATA)]), -8)),  # the checksum itself
        ("x.zip", flipped(ZIP, 150_000)),
        ("x.zip", with_byte(ZIP, DIRECTORY + 6, b"\xff")),  # made for version 25.5 of the format
        ("x.zip", with_byte(ZIP, DIRECTORY + 8, b"\x20")),  # a patch for another file, a feature of the format
        ("x.zip", with_byte(UTF8, DIRECTORY + 46, b"\xff")),  # a name that is not UTF-8
        ("x.zip", with_byte(ZIP, DIRECTORY + 46, b"\0")),  # an empty name
        ("x.zip", with_byte(ZIP, -3, b"\x7f")),  # a directory behind the end of the file, so the file before its start
    ],
)
def test_one_bit_of_an_archive_is_noticed(server, name, content):
    server.content = content
    with pytest.raises(UserError, match="not an archive that can be read"):
        fetch(WebFiles(url=server.url(name)))
    assert not leftovers()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_by_another_method_is_refused(server, method):
    server.content = zip_of([("a", DATA)], method)
    with pytest.raises(UserError, match=r"its member 'a' is not compressed by deflate"):
        fetch(WebFiles(url=server.url("x.zip")))
    assert not leftovers()


def test_an_encrypted_zip_is_refused(server):
    server.content = with_byte(ZIP, DIRECTORY + 8, b"\x01")
    with pytest.raises(UserError, match="its member 'a' is encrypted"):
        fetch(WebFiles(url=server.url("x.zip")))
    assert not leftovers()


@pytest.mark.parametrize(("name", "free"), [("file.bin", 299_999), ("bomb.tar.gz", 100_000), ("bomb.zip", 5_000_000)])
def test_more_than_the_disk_holds_is_refused(server, monkeypatch, name, free):
    if name.startswith("bomb"):
        server.content = (tar_of if "tar" in name else zip_of)([("zeros", bytes(10_000_000))])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    with pytest.raises(UserError, match="MB are free"):
        fetch(WebFiles(url=server.url(name)))
    assert not leftovers()
