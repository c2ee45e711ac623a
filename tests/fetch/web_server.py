"""A small web server of our own, which can be made to misbehave, for the tests of downloads."""

import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from saelib.datasets.listing import list_files
from saelib.fetch import cache_folder

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


def files_of(files):
    """What a data set that reads everything reads."""
    return list_files("toy", [files], lambda file: True, "toy").files


def leftovers():
    """Everything in the cache that is neither a lock nor a finished download."""
    whole = [path for path in (cache_folder() / "web").glob("*/*") if len(path.name) == 64]
    paths = [path for path in cache_folder().rglob("*") if path.is_file() and path.name != "lock"]
    return [path for path in paths if not any(path.is_relative_to(folder) for folder in whole)]
