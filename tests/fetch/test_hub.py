"""The hub's library against a small hub of our own: what is fetched, what is refused, what works without a network."""

import hashlib
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from saelib.config.files import HubFiles
from saelib.errors import UserError
from saelib.fetch import fetch, fetch_files, is_cached

COMMIT = "a1" * 20
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"large weights",
    "vae/config.json": b"[]",
    "vae/model.safetensors": b"other weights",
    "data/part-0.parquet": b"rows",
}


class Hub:
    """One repository behind the parts of the hub's interface that `snapshot_download` uses."""

    def __init__(self) -> None:
        self.repository, self.files, self.gated = "models/org/toy", dict(FILES), False
        self.sent: list[str] = []
        """Paths of the files that were asked for."""
        self.asked = 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    def __init__(self, hub: Hub, *args) -> None:
        self.hub = hub
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        hub.asked += 1
        api, files = f"/api/{hub.repository}/", f"/{hub.repository.removeprefix('models/')}/resolve/{COMMIT}/"
        if hub.gated and not self.headers.get("Authorization"):
            self.refuse(401, "GatedRepo")
        elif path.startswith(f"{api}revision/"):
            known = path.rsplit("/", 1)[1] in ("main", COMMIT)
            self.json({"id": "org/toy", "sha": COMMIT}) if known else self.refuse(404, "RevisionNotFound")
        elif path == f"{api}tree/{COMMIT}":
            self.json([self.entry(name, content) for name, content in hub.files.items()])
        elif path.startswith(files):
            self.file(path.removeprefix(files))
        else:
            self.refuse(404, "RepoNotFound")

    def entry(self, name: str, content: bytes) -> dict:
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
        entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        return entry if name.endswith("json") else entry | {"lfs": lfs}

    def file(self, name: str) -> None:
        content = self.hub.files[name]
        digest = hashlib.sha1 if name.endswith("json") else hashlib.sha256
        # What the hub promises is of FILES, whatever it then sends.
        headers = {"ETag": f'"{digest(FILES[name]).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if self.command == "GET":
            self.hub.sent.append(name)
        self.answer(200, headers, content)

    def json(self, value) -> None:
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"X-Error-Code": code}, b"")

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    toy = Hub()
    endpoint = f"http://127.0.0.1:{toy.http.server_port}"
    monkeypatch.setenv("SAELIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield toy
    toy.close()


def names(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_a_repository_is_fetched_once_and_works_without_a_network_then(hub):
    files = HubFiles(hf="org/toy")
    assert not is_cached(files)
    root = fetch(files)
    assert {name: (root / name).read_bytes() for name in names(root)} == FILES
    asked = hub.asked
    assert is_cached(files)
    assert hub.asked == asked
    hub.close()
    assert fetch(files) == root
    assert fetch(HubFiles(hf="org/toy", revision=COMMIT)) == root


def test_only_what_is_wanted_is_fetched(hub):
    assert names(fetch(HubFiles(hf="org/toy", only=("*.json",)))) == ["config.json", "vae/config.json"]
    assert not is_cached(HubFiles(hf="org/toy"))
    hub.sent.clear()
    assert names(fetch(HubFiles(hf="org/toy", inside="vae"))) == ["config.json", "model.safetensors"]
    assert hub.sent == ["vae/model.safetensors"]
    assert [path.name for path in fetch_files(HubFiles(hf="org/toy", inside="data/*.parquet"))] == ["part-0.parquet"]
    assert [path.name for path in fetch_files(HubFiles(hf="org/toy", inside="**/*.parquet"))] == ["part-0.parquet"]
    both = HubFiles(hf="org/toy", only=("*.safetensors",), inside="model.*")
    assert fetch(both).read_bytes() == b"large weights"
    with pytest.raises(UserError, match=r"inside 'nowhere': nothing is there; at the top lie: config\.json"):
        fetch(HubFiles(hf="org/toy", inside="nowhere"))
    assert not is_cached(HubFiles(hf="org/toy", inside="nowhere"))


def test_data_sets_have_an_address_of_their_own(hub):
    hub.repository = "datasets/org/toy"
    assert fetch(HubFiles(hf="org/toy", repo_type="dataset", inside="config.json")).read_bytes() == b"{}"
    with pytest.raises(UserError, match=r"no such model for you; check `hf` and `repo_type`"):
        fetch(HubFiles(hf="org/toy"))


def test_a_damaged_file_is_named_and_once_it_is_deleted_comes_anew(hub):
    hub.files["model.safetensors"] = b"large weighty"
    files = HubFiles(hf="org/toy")
    with pytest.raises(UserError, match=r"model\.safetensors: damaged: .*; delete (\S+) and fetch") as caught:
        fetch(files)
    Path(str(caught.value).split("delete ")[1].split(" and fetch")[0]).unlink()
    hub.files["model.safetensors"] = FILES["model.safetensors"]
    assert (fetch(files) / "model.safetensors").read_bytes() == b"large weights"


def test_each_file_is_checked_once_until_it_changes(hub, monkeypatch):
    checked = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda stream, name: checked.append(stream.name) or digest(stream, name)
    )
    files = HubFiles(hf="org/toy")
    root = fetch(files)
    assert len(checked) == 3
    fetch(files)
    assert len(checked) == 3
    (root / "model.safetensors").resolve().write_bytes(b"later damage")
    with pytest.raises(UserError, match="damaged"):
        fetch(files)
    assert len(checked) == 4


def test_a_gated_repository_says_where_the_licence_is(hub, monkeypatch):
    hub.gated = True
    message = r"gated: accept the licence at https://huggingface\.co/org/toy and set HF_TOKEN"
    for gated in (True, False):
        with pytest.raises(UserError, match=message):
            fetch(HubFiles(hf="org/toy", gated=gated))
        assert (hub.asked == 0) == gated
    monkeypatch.setenv("HF_TOKEN", "hf_toy")
    root = fetch(HubFiles(hf="org/toy", gated=True))
    monkeypatch.delenv("HF_TOKEN")
    assert fetch(HubFiles(hf="org/toy", gated=True)) == root


def test_a_revision_that_is_not_there_is_named(hub):
    with pytest.raises(UserError, match=r"hf org/toy@v9: the hub has no revision 'v9'"):
        fetch(HubFiles(hf="org/toy", revision="v9"))


def test_nobody_there_is_one_line(hub):
    hub.close()
    with pytest.raises(UserError, match=r"hf org/toy@main: the Hugging Face hub did not give") as caught:
        fetch(HubFiles(hf="org/toy"))
    assert "\n" not in str(caught.value)
