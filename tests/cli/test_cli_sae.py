"""evaluate, export and import, as a person calls them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from saelib.api.sae import load_sae
from saelib.cli import main
from saelib.cli.sae import CORE
from saelib.evaluation.core import core_metrics
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE, save_sae
from saelib.sae.model import SAE
from saelib.store import StoreMetadata, StoreWriter

Saelib = Callable[..., str]


@pytest.fixture
def saelib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Saelib:
    """Call a command in this process, as loading torch takes seconds: what it printed, or its complaint."""

    def call(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["saelib", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        found = ended.value.code
        complaint = found if isinstance(found, str) else printed.err
        assert (1 if isinstance(found, str) else found or 0) == code, complaint
        return complaint if code else printed.out

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An SAE, and rows for it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 8)).astype(np.float32) + 30
    np.save(tmp_path / "rows.npy", x)
    rows = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    tensors = {"W_enc": rows.T, "W_dec": rows / 8, "b_enc": torch.zeros(32), "b_dec": torch.zeros(8)}
    save_sae(
        SavedSAE(SAE("topk", tensors, 4), Preprocessing(x.mean(0).astype(np.float64)), {}), tmp_path / "sae.safetensors"
    )
    return tmp_path


def test_evaluate_export_import_evaluate(folder: Path, saelib: Saelib) -> None:
    before = json.loads(saelib("evaluate", folder / "sae.safetensors", folder / "rows.npy", "--json"))
    assert set(before) == {
        "rows", "split", "note", "tokens", "tokens_available", "d_in", "d_sae", "l0", "mse", "variance_explained",
        "token_fvu_median", "token_fvu_mean", "dead_relu", "dead_topk_only", "dead_total", "typical_tokens",
        "typical_explained_variance", "firing_rates", *CORE, *(f"typical_{name}" for name in CORE),
    }  # fmt: skip
    assert (before["tokens"], before["tokens_available"]) == (500, 500)
    assert "dead_topk_only" in saelib("evaluate", folder / "sae.safetensors", folder / "rows.npy", "--tokens", 100)
    assert "written for dictionary_learning" in saelib(
        "export", folder / "sae.safetensors", folder / "theirs", "--to", "dictionary_learning"
    )
    assert "topk, d_in 8, d_sae 32, k 4" in saelib("import", folder / "theirs", folder / "back.safetensors")
    after = json.loads(saelib("evaluate", folder / "back.safetensors", folder / "rows.npy", "--json"))
    for name, value in before.items():
        assert after[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4))


def store(path: Path) -> Path:
    """A store whose held-out rows are twice as far from its mean as its training rows."""
    path.mkdir()
    acts = np.random.default_rng(1).standard_normal((500, 8)).astype(np.float32) + 30
    parts = {"train": acts[:400], "heldout": (acts[400:] - 30) * 2 + 30}
    tokens = {split: len(part) for split, part in parts.items()}
    writer = StoreWriter(path, tokens=tokens, d_in=8, offset=acts.mean(0), chunk_rows=64, window_rows=128, seed=0)
    for split, part in parts.items():
        writer.append(split, part, np.arange(len(part), dtype=np.int32))
    made = {"index_rows": writer.index_rows, "dtypes": writer.dtypes, "reasons": writer.reasons}
    sizes = {"d_in": 8, "train_tokens": 400, "heldout_tokens": 100, "chunk_rows": 64, "examples": tokens}
    writer.finish(StoreMetadata(key="k", model="m", layer=0, dataset="none", versions={}, **sizes, **made))
    return path


def test_a_store_is_measured_on_rows_that_no_training_has_seen(folder: Path, saelib: Saelib) -> None:
    """An SAE looks better on the rows that it was trained on; which ones they are, the output says."""
    path, sae = store(folder / "layer_0.zarr"), folder / "sae.safetensors"
    by_default, heldout, train = (
        json.loads(saelib("evaluate", sae, f"{path}{split}", "--json")) for split in ("", "::heldout", "::train")
    )
    assert by_default == heldout
    assert (heldout["rows"], heldout["split"], heldout["tokens"]) == (f"{path}::heldout", "heldout", 100)
    assert "an SAE that was trained on this store has not seen them" in heldout["note"]
    assert (train["rows"], train["split"], train["tokens"]) == (f"{path}::train", "train", 400)
    assert "does better on them than on others" in train["note"]
    assert heldout["mse"] > 2 * train["mse"]
    shown = saelib("evaluate", sae, path, "--tokens", 30)
    assert f"{path}::heldout" in shown
    assert "has not seen them" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith("tokens")] == [
        ["tokens", "30"],
        ["tokens_available", "100"],
    ]


def test_an_sae_of_another_library_is_measured_as_it_lies(folder: Path, saelib: Saelib) -> None:
    ours, rows = folder / "sae.safetensors", folder / "rows.npy"
    saelib("export", ours, folder / "theirs", "--to", "saelens")
    found, expected = (json.loads(saelib("evaluate", one, rows, "--json")) for one in (folder / "theirs", ours))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), name


def test_core_figures_are_those_of_the_face_and_massive_tokens_are_left_out(folder: Path, saelib: Saelib) -> None:
    x = np.load(folder / "rows.npy")
    x[:3] *= 1000
    np.save(folder / "massive.npy", x)
    found = json.loads(saelib("evaluate", folder / "sae.safetensors", folder / "massive.npy", "--json"))
    sae = load_sae(folder / "sae.safetensors")
    core = core_metrics(x, sae)
    assert found["typical_tokens"] == len(x) - 3
    assert found["cossim"] == pytest.approx(core.all.cossim)
    assert found["typical_explained_variance"] == pytest.approx(core_metrics(x[3:], sae).all.explained_variance)
    assert sum(found["firing_rates"]) == (core.all.firing_rates > 0).sum()


def test_of_a_plain_file_it_is_said_that_nothing_is_known(folder: Path, saelib: Saelib) -> None:
    rows = folder / "rows.npy"
    found = json.loads(saelib("evaluate", folder / "sae.safetensors", rows, "--json"))
    assert (found["rows"], found["split"]) == (str(rows), "all")
    assert "whether the SAE was trained on them cannot be known" in found["note"]
    assert "whether the SAE was trained on them cannot be known" in saelib("evaluate", folder / "sae.safetensors", rows)


def test_mistakes_are_one_sentence_and_an_exit_code(folder: Path, saelib: Saelib) -> None:
    sae, rows = folder / "sae.safetensors", folder / "rows.npy"
    assert "no such file" in saelib("evaluate", folder / "none.safetensors", rows, code=1)
    assert "not an SAE written by saelib" in saelib("evaluate", rows, rows, code=1)
    np.save(folder / "wide.npy", np.zeros((5, 9)))
    assert "rows have 9 dimensions; the SAE reads 8" in saelib("evaluate", sae, folder / "wide.npy", code=1)
    assert "holds other files" in saelib("export", sae, folder, "--to", "saelens", code=1)
    assert "in none of the known formats" in saelib("import", folder, folder / "out.safetensors", code=1)
    assert "no such folder" in saelib("import", folder / "none", folder / "out.safetensors", code=1)
    assert "Invalid value for '--to'" in saelib("export", sae, folder / "out", "--to", "onnx", code=2)
    assert "in none of the known formats" in saelib("evaluate", folder, rows, code=1)
    saelib("export", sae, folder / "theirs", "--to", "saelens")
    theirs = saelib("export", folder / "theirs", folder / "out", "--to", "saelens", code=1)
    assert f"an SAE of saelens; first: saelib import {folder / 'theirs'}" in theirs
    assert "name the folder it lies in" in saelib(
        "import", folder / "theirs" / "cfg.json", folder / "out.safetensors", code=1
    )
    assert "back.safetensors" in saelib("import", folder / "theirs", folder / "back.pt", code=1)
    assert not (folder / "back.pt").exists()
    assert not (folder / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("evaluate", ["dead_topk_only", "Example: saelib evaluate", "--tokens", "about the mean"]),
        ("export", ["Example: saelib export", "SAE.load_from_disk", "load_dictionary", "SparseCoder", "token norm"]),
        ("import", ["Example: saelib import", "GatedAutoEncoder", "nothing in it is run", "--from"]),
    ],
)
def test_help_teaches(command: str, words: list[str], saelib: Saelib) -> None:
    text = " ".join(saelib(command, "--help").split())
    assert all(word in text for word in words)


def test_the_libraries_of_the_help_are_those_there_are() -> None:
    from saelib.cli.sae import Library
    from saelib.interchange import FORMATS

    assert {library.value for library in Library} == set(FORMATS)
