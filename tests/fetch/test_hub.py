"""The hub's library against a small hub of our own: what is fetched, what is refused, what works without a network."""

import hashlib
from pathlib import Path

import pytest

from saelib.config.files import HubFiles
from saelib.datasets.listing import list_files
from saelib.errors import UserError
from saelib.fetch import fetch, is_cached
from saelib.fetch import hub as hub_files

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"large weights",
    "vae/config.json": b"[]",
    "vae/model.safetensors": b"other weights",
    "data/part-0.parquet": b"rows",
}


def files_of(files):
    """What a data set that reads everything reads."""
    return list_files("toy", [files], lambda file: True, "toy").files


@pytest.fixture(autouse=True)
def _files(hub):
    hub.files = dict(FILES)


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
    assert fetch(HubFiles(hf="org/toy", revision=hub.commit)) == root


def test_files_are_listed_without_fetching_any_and_from_the_cache_without_a_network(hub):
    files = HubFiles(hf="org/toy", only=("*.json",))
    commit, listed = hub_files.list_files(files)
    assert (commit, sorted(listed)) == (hub.commit, sorted(FILES))
    assert hub.sent == []
    fetch(files)
    hub.close()
    commit, listed = hub_files.list_files(files)
    assert (commit, sorted(listed)) == (hub.commit, ["config.json", "vae/config.json"])
    with pytest.raises(UserError, match="download the files elsewhere and name their folder"):
        hub_files.list_files(HubFiles(hf="org/other"))


def test_only_what_is_wanted_is_fetched(hub):
    assert names(fetch(HubFiles(hf="org/toy", only=("*.json",)))) == ["config.json", "vae/config.json"]
    assert not is_cached(HubFiles(hf="org/toy"))
    hub.sent.clear()
    assert names(fetch(HubFiles(hf="org/toy", inside="vae"))) == ["config.json", "model.safetensors"]
    assert hub.sent == ["vae/model.safetensors"]
    assert [path.name for path in files_of(HubFiles(hf="org/toy", inside="data/*.parquet"))] == ["part-0.parquet"]
    assert [path.name for path in files_of(HubFiles(hf="org/toy", inside="**/*.parquet"))] == ["part-0.parquet"]
    both = HubFiles(hf="org/toy", only=("*.safetensors",), inside="model.*")
    assert fetch(both).read_bytes() == b"large weights"
    with pytest.raises(UserError, match=r"inside 'nowhere': no such file or folder; at the top are: config\.json"):
        fetch(HubFiles(hf="org/toy", inside="nowhere"))
    assert not is_cached(HubFiles(hf="org/toy", inside="nowhere"))


def test_data_sets_have_an_address_of_their_own(hub):
    hub.repository = "datasets/org/toy"
    assert fetch(HubFiles(hf="org/toy", repo_type="dataset", inside="config.json")).read_bytes() == b"{}"
    with pytest.raises(UserError, match=r"no such model for you.*`repo_type: dataset`"):
        fetch(HubFiles(hf="org/toy"))


def test_a_damaged_file_is_named_and_once_it_is_deleted_comes_anew(hub):
    hub.files["model.safetensors"], hub.promised = b"large weighty", FILES
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


def test_a_gated_repository_says_where_the_license_is(hub, monkeypatch):
    hub.gated = True
    message = r"gated: accept the license at https://huggingface\.co/org/toy and set HF_TOKEN"
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
    with pytest.raises(UserError, match=r"hf org/toy@main: could not be fetched from the Hugging Face hub") as caught:
        fetch(HubFiles(hf="org/toy"))
    assert "\n" not in str(caught.value)
