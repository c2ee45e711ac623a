"""Fixtures for tests of downloads."""

import pytest

from saelib.fetch import download
from tests.fetch.web_server import Server


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SAELIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    toy = Server()
    yield toy
    toy.http.shutdown()
    toy.http.server_close()
