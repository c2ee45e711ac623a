"""What is fetched is what was pinned, lies inside the cache, and is fetched once."""

import base64
import hashlib
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from saelib import fetch as fetching
from saelib.config import Config
from saelib.config.files import HubFiles, LocalFiles, Wheel
from saelib.datasets.listing import list_files
from saelib.errors import UserError
from saelib.fetch import fetch, fetch_suite, is_cached

FILES = {
    "toyweights/data/a.faa": b">a\nMKV\n",
    "toyweights/data/b.faa": b">b\nMKL\n",
    "toyweights/model.bin": b"\x00\x01",
}


def files_of(files):
    """What a data set that reads everything reads."""
    return list_files("toy", [files], lambda file: True, "toy").files


def build_wheel(folder: Path, members: dict[str, bytes] = FILES, tag: str = "py3-none-any", link: str = "") -> Wheel:
    """A valid wheel in `folder`, which pip finds; `link`: the member that is a symbolic link."""
    folder.mkdir(exist_ok=True)
    name = f"toyweights-1.0-{tag}.whl"
    info = "toyweights-1.0.dist-info"
    members = members | {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toyweights\nVersion: 1.0\nRequires-Python: <3\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, content in members.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o120777 if path == link else 0o100644) << 16
            archive.writestr(entry, content)
        records = "".join(f"{path},sha256={_record(content)},{len(content)}\n" for path, content in members.items())
        archive.writestr(f"{info}/RECORD", f"{records}{info}/RECORD,,\n")
    sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return Wheel(pypi="toyweights==1.0", wheel=name, sha256=sha256)


def _record(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The only place where pip looks for wheels."""
    monkeypatch.setenv("SAELIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "shelf"


@pytest.fixture
def pip_calls(monkeypatch):
    calls = []
    run = subprocess.run

    def counted(command, **options):
        calls.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    return calls


def with_inside(wheel: Wheel, inside: str) -> Wheel:
    return wheel.model_copy(update={"inside": inside})


def test_a_wheel_is_unpacked_and_fetched_once(shelf, pip_calls):
    # The wheel's Requires-Python fits no Python 3: nothing is installed, so it does not count.
    wheel = build_wheel(shelf)
    root = fetch(wheel)
    assert {name: (root / name).read_bytes() for name in FILES} == FILES
    (shelf / wheel.wheel).unlink()
    assert fetch(with_inside(wheel, "toyweights/model.bin")).read_bytes() == b"\x00\x01"
    assert len(pip_calls) == 1


def test_inside_takes_a_folder_a_file_or_a_pattern(shelf):
    wheel = build_wheel(shelf)
    for inside, names in {
        "toyweights": ["model.bin"],
        "toyweights/data": ["a.faa", "b.faa"],
        "toyweights/data/*.faa": ["a.faa", "b.faa"],
        "toyweights/data/b.faa": ["b.faa"],
    }.items():
        assert [path.name for path in files_of(with_inside(wheel, inside))] == names
    with pytest.raises(UserError, match="2 match"):
        fetch(with_inside(wheel, "toyweights/data/*.faa"))
    with pytest.raises(UserError, match=r"no such file or folder; at the top are: toyweights"):
        fetch(with_inside(wheel, "nowhere"))


@pytest.mark.parametrize("inside", ["../secret", "toyweights/../../secret", "/etc/passwd"])
def test_inside_stays_inside(shelf, inside):
    with pytest.raises(UserError, match="leads outside the downloaded files"):
        fetch(with_inside(build_wheel(shelf), inside))


def test_a_wheel_for_another_machine_and_python_is_the_same_wheel(shelf):
    wheel = build_wheel(shelf, tag="cp38-cp38-macosx_11_0_arm64.macosx_12_0_arm64")
    build_wheel(shelf, FILES | {"toyweights/other": b"x"}, tag="cp39-cp39-macosx_11_0_arm64")
    assert not (fetch(wheel) / "toyweights/other").exists()


def test_a_wrong_checksum_names_both_sums_and_leaves_nothing(shelf):
    wheel = build_wheel(shelf)
    lie = wheel.model_copy(update={"sha256": "0" * 64})
    for _ in range(2):
        with pytest.raises(UserError, match=f"(?s){wheel.sha256}.*{'0' * 64}"):
            fetch(lie)
    assert fetch(wheel).is_dir()
    assert not list(fetching.cache_folder().rglob("*.draft"))


@pytest.mark.parametrize(
    ("members", "link"),
    [
        ({"../escape.txt": b"x"}, ""),
        ({"toyweights/../../escape.txt": b"x"}, ""),
        ({"/tmp/escape.txt": b"x"}, ""),
        ({"toyweights\\..\\escape.txt": b"x"}, ""),
        ({"C:escape.txt": b"x"}, ""),
        ({"toyweights/link": b"/etc/passwd"}, "toyweights/link"),
    ],
)
def test_members_that_lead_outside_are_refused_before_anything_is_written(shelf, tmp_path, members, link):
    wheel = build_wheel(shelf, FILES | members, link=link)
    with pytest.raises(UserError, match="refused"):
        fetch(wheel)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name in ("model.bin", "escape.txt", "link")]


def test_more_than_the_disk_holds_is_refused(shelf, monkeypatch):
    wheel = build_wheel(shelf)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5}))
    with pytest.raises(UserError, match="MB are free"):
        fetch(wheel)


def test_what_a_killed_fetch_left_is_cleared_away(shelf):
    wheel = build_wheel(shelf)
    folder = fetch(wheel).parent
    (folder / "files").rename(folder / ".files.1234.draft")
    (folder / ".download.draft").mkdir()
    assert fetch(wheel).is_dir()
    assert sorted(path.name for path in folder.iterdir()) == ["files", "lock"]


def test_two_at_once_fetch_once(shelf, pip_calls):
    wheel = build_wheel(shelf)
    with ThreadPoolExecutor(4) as pool:
        roots = list(pool.map(fetch, [wheel] * 4))
    assert len(set(roots)) == 1
    assert len(pip_calls) == 1


def test_what_pip_cannot_find_is_one_clear_line(shelf):
    wheel = build_wheel(shelf)
    (shelf / wheel.wheel).unlink()
    with pytest.raises(UserError, match=r"toyweights==1\.0: .*No matching distribution"):
        fetch(wheel)


def test_without_a_network_the_package_index_is_to_blame(shelf, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    for name, value in {"INDEX_URL": "http://127.0.0.1:9/simple", "EXTRA_INDEX_URL": "", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(UserError, match="the package index cannot be reached"):
        fetch(Wheel(pypi="toyweights==1.0", wheel="toyweights-1.0-py3-none-any.whl", sha256="0" * 64))


@pytest.mark.parametrize(
    ("pypi", "wheel"),
    [
        ("toyweights==2.0", "toyweights-1.0-py3-none-any.whl"),
        ("other==1.0", "toyweights-1.0-py3-none-any.whl"),
        ("toyweights==1.0", "nonsense.whl"),
    ],
)
def test_a_wheel_name_that_contradicts_the_pin_is_refused_before_pip_runs(shelf, pip_calls, pypi, wheel):
    with pytest.raises(UserError, match=r"toyweights|nonsense"):
        fetch(Wheel(pypi=pypi, wheel=wheel, sha256="0" * 64))
    assert not pip_calls


def test_local_paths(tmp_path):
    (tmp_path / "a.fa").write_text(">a\nA\n")
    (tmp_path / ".hidden").write_text("")
    assert fetch(LocalFiles(path=tmp_path)) == tmp_path
    assert files_of(LocalFiles(path=tmp_path)) == [tmp_path / "a.fa"]
    assert files_of(LocalFiles(path=tmp_path / "a.fa")) == [tmp_path / "a.fa"]
    with pytest.raises(UserError, match="no such file"):
        fetch(LocalFiles(path=tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no toy files in"):
        files_of(LocalFiles(path=tmp_path / "empty"))


def test_without_a_network_the_hub_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"hf no-such/model@main.*\{path: /the/folder\}") as caught:
        fetch(HubFiles(hf="no-such/model"))
    assert "\n" not in str(caught.value)


def test_a_snapshot_of_the_hub_that_is_in_its_cache_is_used(monkeypatch, tmp_path):
    commit = "a" * 40
    folder = tmp_path / "models--org--model"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "v1").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert files_of(HubFiles(hf="org/model", revision="v1"))[0].name == "config.json"


def test_importing_fetch_is_light():
    code = (
        "import sys, saelib.fetch, saelib.sources, saelib.datasets; print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_a_suite_with_and_without_weights_is_fetched(shelf, tmp_path, caplog):
    wheel = build_wheel(shelf)
    code = tmp_path / "mine.py"
    code.write_text("")
    module = {"family": "module", "factory": "m:f", "prepare": "m:p", "hooks": "b.{layer}"}
    sources = {
        "weights": {"family": "esm2", "weights": wheel.model_dump()},
        "random": module,
        "folding": {"family": "alphafold3", "inputs": "in", "outputs": "out"},
        "mine": {"family": "plugin", "file": {"path": str(code)}},
        "arrays": {"family": "arrays", "files": {1: "a.npy"}},
    }
    datasets = {
        "web": {"kind": "text", "hub": {"hf": "org/web", "revision": "main"}},
        "docs": {"kind": "python_docs"},
        "proteins": {"kind": "sequences", "alphabet": "protein", "files": [wheel.model_dump()]},
    }
    models = {name: {"domain": "toy", "source": source, "layers": 1} for name, source in sources.items()}
    for name in set(models) - {"arrays"}:
        models[name]["dataset"] = "docs"
    config = Config.model_validate({"datasets": datasets, "models": models})
    assert not is_cached(wheel)
    assert fetch_suite(config) == []
    assert is_cached(wheel)
    assert "web: streamed from the hub" in caplog.text
    code.unlink()
    (line,) = fetch_suite(config)  # a line for what is missing; the rest is fetched all the same
    assert "mine.py: no such file" in line
