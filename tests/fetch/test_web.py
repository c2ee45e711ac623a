"""Downloads from any address: a file in the cache is whole and is the one that was pinned."""

import logging
import socket
import socketserver
import threading

import pytest

from saelib.config.files import WebFiles
from saelib.errors import UserError
from saelib.fetch import cache_folder, fetch, is_cached
from tests.fetch.web_server import DATA, SUM, files_of, leftovers


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
