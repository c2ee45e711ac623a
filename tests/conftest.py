"""For tests of several stages: a small hub and a small model of our own, and processes that compile kernels."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import hypothesis
import pytest

from saelib.devices.cards import count_cards, visible_cards

# A busy machine is no fault of the code.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

COMMIT = "a1" * 20


class Hub:
    """One repository behind the parts of the hub's interface that its library and `datasets` use."""

    commit = COMMIT

    def __init__(self) -> None:
        self.repository, self.gated = "models/org/toy", False
        self.files: dict[str, bytes] = {}
        self.promised: dict[str, bytes] = {}
        """Files whose sum the hub gives out although it sends others."""
        self.sent: list[str] = []
        """Paths of the files that were asked for."""
        self.asked = 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self.endpoint = f"http://127.0.0.1:{self.http.server_port}"
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
        elif path.startswith(f"{api}tree/{COMMIT}"):
            folder = path.removeprefix(f"{api}tree/{COMMIT}").lstrip("/")
            self.json([self.entry(name, data) for name, data in hub.files.items() if name.startswith(folder)])
        elif path.startswith(files) and path.removeprefix(files) not in hub.files:
            self.refuse(404, "EntryNotFound")
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
        promised = digest(self.hub.promised.get(name, content)).hexdigest()
        headers = {"ETag": f'"{promised}"', "X-Repo-Commit": COMMIT}
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


CARD = ["cuda"] if count_cards() and visible_cards() else []
"""The GPU, if this machine has one that torch can use."""


@pytest.fixture(params=["cpu", *CARD])
def device(request: pytest.FixtureRequest) -> str:
    """Each device of torch that tensors may lie on."""
    return request.param


@pytest.fixture
def hub(tmp_path, monkeypatch):
    toy = Hub()
    monkeypatch.setenv("SAELIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in {
        "ENDPOINT": toy.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": toy.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield toy
    toy.close()


@pytest.fixture
def compiled_and_cached(tmp_path: Path) -> Callable[[str], tuple[list[str], list[str]]]:
    """The words of a script in a process that compiles its kernels, and in one that finds them in numba's cache."""

    def run(script: str) -> tuple[list[str], list[str]]:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        call = [sys.executable, "-c", script]
        done = [subprocess.run(call, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
        return done[0].stdout.split(), done[1].stdout.split()

    return run


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three blocks of width 16 with a tokenizer of words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gpt2")
    words = ["<unk>", "<pad>", "the", "of", "a", "is", "and", "to", "in", "that", "it", "or", "be", "as", "for", "are"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(words), n_embd=16, n_layer=3, n_head=2, n_positions=64)
    GPT2Model(config).save_pretrained(folder)
    return folder
