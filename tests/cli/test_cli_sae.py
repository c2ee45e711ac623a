"""evaluate, export and import, as a person calls them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from saelib.cli import main
from saelib.preprocess import Preprocess
from saelib.sae.file import SavedSAE, save_sae
from saelib.sae.model import SAE

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
        SavedSAE(SAE("topk", tensors, 4), Preprocess(x.mean(0).astype(np.float64)), {}), tmp_path / "sae.safetensors"
    )
    return tmp_path


def test_evaluate_export_import_evaluate(folder: Path, saelib: Saelib) -> None:
    before = json.loads(saelib("evaluate", folder / "sae.safetensors", folder / "rows.npy", "--json"))
    assert set(before) == {
        "rows", "split", "note", "tokens", "tokens_available", "d_in", "d_sae", "l0", "mse", "variance_explained",
        "token_fvu_median", "token_fvu_mean", "dead_relu", "dead_topk_only", "dead_total",
    }  # fmt: skip
    assert before["tokens"] == 500
    assert "dead_topk_only" in saelib("evaluate", folder / "sae.safetensors", folder / "rows.npy", "--tokens", 100)
    assert "written for dictionary_learning" in saelib(
        "export", folder / "sae.safetensors", folder / "theirs", "--to", "dictionary_learning"
    )
    assert "topk, d_in 8, d_sae 32, k 4" in saelib("import", folder / "theirs", folder / "back.safetensors")
    after = json.loads(saelib("evaluate", folder / "back.safetensors", folder / "rows.npy", "--json"))
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=1e-4)


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
