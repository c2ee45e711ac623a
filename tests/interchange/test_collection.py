"""Several SAEs in one place: a folder, a repository of the hub, a release of SAELens."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import saelib
from saelib.cli import main
from saelib.config.files import HubFiles
from saelib.errors import UserError
from saelib.fetch import hub as fetch_hub
from saelib.interchange import export_sae
from saelib.interchange.collection import find_saes, import_all, open_collection
from saelib.sae.file import load_sae

COMMIT = "a1" * 20


@pytest.fixture
def folder(make: Any, tmp_path: Path) -> Path:
    """SAEs of three libraries, one of them further down, and a file of something else."""
    place = tmp_path / "theirs"
    export_sae(make("topk", "raw"), "sparsify", place / "layers.2")
    export_sae(make("topk", "raw"), "sparsify", place / "layers.10")
    export_sae(make("relu", "raw"), "saelens", place / "deep" / "blocks.3.hook_resid_post")
    export_sae(make("jumprelu", "raw"), "dictionary_learning", place / "trainer_0")
    (place / "README.md").write_text("hello")
    return place


NAMES = ("deep/blocks.3.hook_resid_post", "layers.2", "layers.10", "trainer_0")


def test_a_folder_of_several_is_listed_and_one_is_picked(folder: Path) -> None:
    collection, name = open_collection(str(folder))
    assert (collection.names, name) == (NAMES, None)
    assert collection.load("trainer_0").sae.architecture == "jumprelu"
    assert saelib.load_sae(f"{folder}::deep/blocks.3.hook_resid_post").model.architecture == "relu"
    assert saelib.load_sae(folder / "layers.2").k == 6
    assert open_collection(str(folder), "sparsify")[0].names == ("layers.2", "layers.10")
    with pytest.raises(UserError, match=r"holds 4 SAE\(s\) in subfolders; name one, as in .*theirs::deep/blocks"):
        collection.load()
    with pytest.raises(UserError, match=r"has no SAE 'layers\.3'; has deep"):
        collection.load("layers.3")


def test_an_sae_with_others_below_it_is_the_one_that_is_meant(folder: Path, make: Any) -> None:
    export_sae(make("topk", "raw"), "saelens", folder / "(old)")
    for file in (folder / "(old)").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    collection, _ = open_collection(str(folder))
    assert collection.names == ("(old)", ".", *NAMES)
    assert collection.pick(None) == "."
    assert collection.load().about["imported_from"] == "saelens"


def test_names_that_leave_the_place_do_not_count() -> None:
    pair = ("cfg.json", "sae.safetensors")
    places = ("..", "a/../../b", "/etc", "fine", ".")
    assert find_saes([f"{place}/{file}" for place in places for file in pair]) == (".", "fine")


def test_all_are_imported_and_those_that_cannot_be_are_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    written = import_all(open_collection(str(folder))[0], out)
    assert sorted(written) == sorted(str(out / f"{name}.safetensors") for name in NAMES)
    assert load_sae(out / "deep" / "blocks.3.hook_resid_post.safetensors").sae.architecture == "relu"
    (folder / "layers.2" / "cfg.json").write_text("{}")
    with pytest.raises(UserError, match=r"1 of 4 SAEs of .* cannot be imported; the others .*\n.*layers\.2/cfg\.json"):
        import_all(open_collection(str(folder))[0], tmp_path / "again")
    assert (tmp_path / "again" / "layers.10.safetensors").is_file()


def test_no_sae_replaces_another_of_the_same_place(folder: Path, make: Any, tmp_path: Path) -> None:
    """One in the place itself and one in its folder `sae` have the same file name."""
    export_sae(make("relu", "raw"), "saelens", folder / "sae")
    for file in (folder / "layers.2").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"theirs::sae: .*sae\.safetensors already holds another of them"):
        import_all(open_collection(str(folder))[0], tmp_path / "ours")
    assert load_sae(tmp_path / "ours" / "sae.safetensors").sae.architecture == "topk"


@pytest.fixture
def on_hub(folder: Path, hub: Any) -> Any:
    hub.files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return hub


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_an_sae_of_the_hub_is_fetched_alone(
    revision: str, on_hub: Any, folder: Path, run: Any, rows: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    fetched: list[HubFiles] = []
    snapshot = fetch_hub.snapshot
    monkeypatch.setattr(fetch_hub, "snapshot", lambda files: fetched.append(files) or snapshot(files))
    collection, _ = open_collection(f"org/toy{revision}")
    assert collection.names == NAMES
    assert on_hub.sent == []
    ours = saelib.load_sae(f"org/toy{revision}::layers.10")
    assert sorted(on_hub.sent) == ["layers.10/cfg.json", "layers.10/sae.safetensors"]
    assert [files.revision for files in fetched] == [COMMIT]  # the one that was listed, whatever main is by now
    np.testing.assert_array_equal(run(ours.saved, rows)[1], run(saelib.load_sae(folder / "layers.10").saved, rows)[1])


def test_what_the_hub_does_not_have_is_said(on_hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^org/none: no such folder, and on the hub: hf org/none@main: the hub has no"):
        open_collection("org/none")
    with pytest.raises(UserError, match="the hub has no revision 'nowhere' of it"):
        open_collection("org/toy@nowhere")
    on_hub.files = {"README.md": b"hello"}
    with pytest.raises(UserError, match=r"org/toy: the repository holds no SAE in a known format \(saelens: cfg\.json"):
        open_collection("org/toy")
    with pytest.raises(UserError, match="nowhere: no such folder; should be a folder, org/name or org/name@revision"):
        open_collection("nowhere")


def test_a_pickle_on_the_hub_is_refused_and_not_run(on_hub: Any, tmp_path: Path, monkeypatch: Any) -> None:
    import torch

    monkeypatch.chdir(tmp_path)

    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"W": Hostile()}, tmp_path / "ae.pt")
    on_hub.files["trainer_0/ae.pt"] = (tmp_path / "ae.pt").read_bytes()
    with pytest.raises(UserError, match=r"ae\.pt: not a file of plain tensors"):
        saelib.load_sae("org/toy::trainer_0")
    assert not (tmp_path / "run").exists()


def test_a_release_of_saelens_is_loaded_by_that_library(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for `sae_lens`, whose SAEs save themselves as that library's do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="as a release of SAELens it is read by that library: pip install sae-lens"):
        saelib.load_sae("gpt2-small-res-jb::blocks.3.hook_resid_post")

    class SAE:
        @staticmethod
        def from_pretrained(release: str, sae_id: str, device: str) -> Any:
            if sae_id != "blocks.3.hook_resid_post":
                raise ValueError(f"ID {sae_id} not found in release {release}.")
            return SAE()

        def save_model(self, path: str) -> None:
            for file in (folder / "deep" / "blocks.3.hook_resid_post").iterdir():
                (Path(path) / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "sae_lens", SimpleNamespace(SAE=SAE))
    found = saelib.load_sae("gpt2-small-res-jb::blocks.3.hook_resid_post")
    assert found.model.architecture == "relu"
    with pytest.raises(UserError, match=r"gpt2-small-res-jb::x: SAELens cannot load it \(ID x not found in release"):
        saelib.load_sae("gpt2-small-res-jb::x")


def test_the_command_lists_picks_and_imports_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["saelib", "import", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().out

    assert call(folder).splitlines() == [f"{folder}::{name}" for name in NAMES]
    (tmp_path / "empty").mkdir()
    assert "in none of the known formats" in call(tmp_path / "empty")
    assert call(folder / "layers.2") == f"{folder / 'layers.2'}\n"
    assert "topk, d_in 24, d_sae 64, k 6" in call(f"{folder}::layers.2", tmp_path / "one.safetensors")
    assert call(folder, "--all", tmp_path / "ours").count(".safetensors: ") == 4
    assert "name one of the two" in call(folder, tmp_path / "x.safetensors", "--all", tmp_path / "x")
    assert "take off ::layers.2" in call(f"{folder}::layers.2", "--all", tmp_path / "x")
    assert "name it x.safetensors" in call(folder / "layers.2", tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()
