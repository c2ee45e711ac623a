"""Downloads from any address: what counts is whole, is what was pinned, and lies inside the cache."""

import gzip
import hashlib
import io
import logging
import shutil
import socket
import socketserver
import tarfile
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from saelib.config.files import WebFiles
from saelib.datasets.listing import list_files
from saelib.errors import UserError
from saelib.fetch import cache_folder, download, fetch, is_cached

DATA = np.random.default_rng(0).bytes(300_000)
SUM = hashlib.sha256(DATA).hexdigest()


class Server:
    """A web server with one file, which can be made to misbehave; it notes the ranges it is asked for."""

    def __init__(self) -> None:
        self.content, self.etag, self.ranges, self.length = DATA, '"v1"', True, True
        self.break_after: list[int] = []
        """Bytes after which the next answers end."""
        self.refusals: list[int] = []
        """Status codes of the next answers."""
        self.asked: list[str | None] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.http.server_port}/folder/{name}"


class Handler(BaseHTTPRequestHandler):
    def __init__(self, server: Server, *args) -> None:
        self.toy = server
        super().__init__(*args)

    def do_GET(self) -> None:
        toy, wanted = self.toy, self.headers.get("Range")
        toy.asked.append(wanted)
        if toy.refusals:
            return self.send_error(toy.refusals.pop(0))
        start = 0
        if toy.ranges and wanted and self.headers.get("If-Range", toy.etag) == toy.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(toy.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(toy.content)}")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(toy.content) - 1}/{len(toy.content)}")
        else:
            self.send_response(200)
        if toy.etag:
            self.send_header("ETag", toy.etag)
        if toy.length:
            self.send_header("Content-Length", str(len(toy.content) - start))
        self.end_headers()
        body = toy.content[start:]
        self.wfile.write(body[: toy.break_after.pop(0)] if toy.break_after else body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SAELIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    toy = Server()
    yield toy
    toy.http.shutdown()
    toy.http.server_close()


def files_of(files):
    """What a data set that reads everything reads."""
    return list_files("toy", [files], lambda file: True, "toy").files


def leftovers():
    """Everything in the cache that is neither a lock nor a finished download."""
    whole = [path for path in (cache_folder() / "web").glob("*/*") if len(path.name) == 64]
    paths = [path for path in cache_folder().rglob("*") if path.is_file() and path.name != "lock"]
    return [path for path in paths if not any(path.is_relative_to(folder) for folder in whole)]


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


def test_a_file_is_downloaded_once_and_keeps_its_name(server):
    files = WebFiles(url=server.url("weights.pt?download=1"), sha256=SUM)
    assert not is_cached(files)
    (path,) = files_of(files)
    assert path.name == "weights.pt"
    assert path.read_bytes() == DATA
    assert is_cached(files)
    assert files_of(files) == [path]
    assert len(server.asked) == 1
    assert not leftovers()


def test_without_a_sum_the_line_for_the_config_is_logged_once(server, caplog):
    files = WebFiles(url=server.url())
    with caplog.at_level(logging.WARNING):
        fetch(files)
        fetch(files)
    assert [record.getMessage().endswith(f"sha256: {SUM}") for record in caplog.records] == [True]
    # Once the line is in the config, the file need not come again; another sum has to be looked at anew.
    assert is_cached(WebFiles(url=server.url(), sha256=SUM))
    assert not is_cached(WebFiles(url=server.url(), sha256="0" * 64))


def test_a_wrong_sum_names_both_and_leaves_nothing(server):
    files = WebFiles(url=server.url(), sha256="0" * 64)
    for _ in range(2):
        with pytest.raises(UserError, match=f"(?s){SUM}.*{'0' * 64}"):
            fetch(files)
    assert not is_cached(files)
    assert not leftovers()


def test_a_broken_download_goes_on_where_it_broke(server):
    server.break_after = [100_000, 50_000]
    (path,) = files_of(WebFiles(url=server.url(), sha256=SUM))
    assert path.read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_it_goes_on_in_the_next_process_too(server):
    server.break_after = [100_000, 0, 0, 0]
    files = WebFiles(url=server.url())
    with pytest.raises(UserError, match=r"100000 of 300000 bytes.*kept for the next attempt"):
        fetch(files)
    assert not is_cached(files)
    (path,) = files_of(files)
    assert path.read_bytes() == DATA
    assert server.asked[-1] == "bytes=100000-"
    assert not leftovers()


def test_a_file_that_changed_in_between_is_not_joined_to_the_old_part(server):
    server.break_after = [100_000, 0, 0, 0]
    with pytest.raises(UserError):
        fetch(WebFiles(url=server.url()))
    server.content, server.etag = DATA[::-1], '"v2"'
    (path,) = files_of(WebFiles(url=server.url()))
    assert path.read_bytes() == DATA[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_a_part_of_an_unknown_version_is_not_continued_unless_a_sum_will_tell(server, etag):
    server.etag, server.break_after = etag, [100_000]
    (path,) = files_of(WebFiles(url=server.url()))
    assert path.read_bytes() == DATA
    assert server.asked == [None, None]
    server.break_after = [100_000]
    (path,) = files_of(WebFiles(url=server.url("other"), sha256=SUM))
    assert path.read_bytes() == DATA
    assert server.asked[2:] == [None, "bytes=100000-"]


def test_a_server_without_ranges_sends_everything_again(server):
    server.ranges, server.break_after = False, [100_000]
    (path,) = files_of(WebFiles(url=server.url(), sha256=SUM))
    assert path.read_bytes() == DATA


def test_a_part_that_is_already_whole_is_taken(server):
    server.break_after = [100_000, 0, 0, 0]
    files = WebFiles(url=server.url(), sha256=SUM)
    with pytest.raises(UserError):
        fetch(files)
    (part,) = cache_folder().rglob("partial/file.bin")
    part.write_bytes(DATA)  # as after a kill between the last byte and the check
    server.asked.clear()
    (path,) = files_of(files)
    assert path.read_bytes() == DATA
    assert server.asked == ["bytes=300000-"]


def test_a_file_that_became_shorter_is_fetched_anew(server):
    server.break_after = [100_000, 0, 0, 0]
    with pytest.raises(UserError):
        fetch(WebFiles(url=server.url()))
    server.content = DATA[:1000]
    (path,) = files_of(WebFiles(url=server.url()))
    assert path.read_bytes() == DATA[:1000]


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server):
    server.refusals = [503, 429]
    fetch(WebFiles(url=server.url()))
    assert len(server.asked) == 3
    server.refusals = [404]
    with pytest.raises(UserError, match=r"other: the server answers 404 Not Found"):
        fetch(WebFiles(url=server.url("other")))
    assert len(server.asked) == 4


def test_nobody_there_is_one_clear_line(server):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match=r"file\.bin: could not be downloaded \(.*refused.*\)$"):
        fetch(WebFiles(url=server.url()))


def test_an_answer_of_unknown_length_is_taken(server):
    server.length = False
    (path,) = files_of(WebFiles(url=server.url()))
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("set.tar", partial(tar_of, mode="w")),
        ("set.tar.gz", tar_of),
        ("set.tgz", tar_of),
        ("set.ZIP", zip_of),
    ],
)
def test_archives_are_unpacked(server, name, pack):
    server.content = pack([("set/a.bin", b"a"), ("set/b.bin", b"b"), ("notes", b"x")])
    files = WebFiles(url=server.url(name), inside="set/*.bin")
    assert [path.read_bytes() for path in files_of(files)] == [b"a", b"b"]
    assert not leftovers()
    with pytest.raises(UserError, match=r"inside 'nowhere': nothing is there; at the top lie: notes, set"):
        fetch(WebFiles(url=server.url(name), inside="nowhere"))
    with pytest.raises(UserError, match="within what is fetched"):
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


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar", "x.zip"])
@pytest.mark.parametrize("content", [DATA, tar_of([("a", DATA)])[:-5000], zip_of([("a", DATA)])[:-5000]])
def test_a_damaged_archive_is_refused(server, name, content):
    server.content = content
    with pytest.raises(UserError, match="not an archive that can be read"):
        fetch(WebFiles(url=server.url(name)))
    assert not leftovers()


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


ZIP = zip_of([("a", DATA)])
DIRECTORY = ZIP.rindex(b"PK\x01\x02")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tgz", flipped(tar_of([("a", DATA)]), 150_000)),
        ("x.tgz", flipped(tar_of([("a", DATA)]), -8)),  # the checksum itself
        ("x.zip", flipped(ZIP, 150_000)),
        ("x.zip", ZIP[: DIRECTORY + 6] + b"\xff" + ZIP[DIRECTORY + 7 :]),  # made for version 25.5 of the format
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
    server.content = ZIP[: DIRECTORY + 8] + b"\x01" + ZIP[DIRECTORY + 9 :]
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


def test_two_at_once_fetch_once(server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(WebFiles(url=server.url())))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(server.asked) == 1


class FtpSession(socketserver.StreamRequestHandler):
    """As much of FTP as a download takes; the first transfer breaks off half-way."""

    transfers = 0

    def handle(self) -> None:
        self.say("220 hello")
        while words := self.rfile.readline().decode().split():
            getattr(self, words[0].lower(), lambda *_: self.say("200 fine"))(*words[1:])

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def pasv(self) -> None:
        self.data = socket.create_server(("127.0.0.1", 0))
        port = self.data.getsockname()[1]
        self.say(f"227 passive (127,0,0,1,{port >> 8},{port & 255})")

    def retr(self, name: str) -> None:
        type(self).transfers += 1
        self.say(f"150 here it comes ({len(DATA)} bytes)")
        with self.data, self.data.accept()[0] as connection:
            connection.sendall(DATA[:1000] if self.transfers == 1 else DATA)
        self.say("226 done")


def test_ftp_begins_anew_after_a_break(server):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), FtpSession) as ftp:
        ftp.daemon_threads = True
        threading.Thread(target=ftp.serve_forever, args=(0.02,), daemon=True).start()
        (path,) = files_of(WebFiles(url=f"ftp://127.0.0.1:{ftp.server_address[1]}/folder/file.gz", sha256=SUM))
        ftp.shutdown()
    assert path.read_bytes() == DATA
    assert FtpSession.transfers == 2
