"""Export and import without the libraries: formats, folders and refusals."""

import json
import logging
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saelib.config.preprocessings import PreprocessingName
from saelib.errors import UserError
from saelib.interchange import FORMATS, check_output, export_sae, import_sae, load_own
from saelib.interchange.collection import load_any, open_collection
from saelib.sae.file import save_sae
from saelib.sae.model import Architecture

PREPROCESSINGS = [*get_args(PreprocessingName), "partial_pca", "active_subspace"]
TOKEN_NORMS = {"layernorm", "ln_center", "rescale"}
CASES = [
    (library, architecture, preprocessing)
    for library in FORMATS
    for architecture in get_args(Architecture)
    for preprocessing in PREPROCESSINGS
    if library == "saelens" or preprocessing not in TOKEN_NORMS
    if library != "sparsify" or architecture == "topk"
    if library != "dictionary_learning" or architecture != "abs_topk"
]


@pytest.mark.parametrize(("library", "architecture", "preprocessing"), CASES)
def test_export_then_import_computes_the_same(
    library: str, architecture: str, preprocessing: str, make: Any, run: Any, rows: Any, tmp_path: Path
) -> None:
    saved = make(architecture, preprocessing)
    export_sae(saved, library, tmp_path / "out")
    back = import_sae(tmp_path / "out")
    codes, x_hat = run(saved, rows)
    codes_back, x_hat_back = run(back, rows)
    np.testing.assert_allclose(x_hat_back, x_hat, rtol=0, atol=5e-5)
    assert ((codes_back != 0) == (codes != 0)).mean() > 0.9999
    if (library, architecture) != ("dictionary_learning", "relu"):  # their codes are those of a unit decoder
        np.testing.assert_allclose(codes_back, codes, rtol=0, atol=5e-5)
    assert back.about["imported_from"] == library


def test_a_second_export_is_the_same_as_the_first(make: Any, tmp_path: Path) -> None:
    """A second import and export changes no weight, nor do the libraries' own conversions."""
    for library, weights in (("saelens", "sae_weights.safetensors"), ("sparsify", "sae.safetensors")):
        export_sae(make("topk", "pca"), library, tmp_path / library)
        first = load_file(tmp_path / library / weights)
        export_sae(import_sae(tmp_path / library), library, tmp_path / library)
        for name, value in load_file(tmp_path / library / weights).items():
            torch.testing.assert_close(value, first[name], rtol=0, atol=1e-6)


def test_a_relu_sae_goes_to_dictionary_learning_with_a_unit_decoder(make: Any, tmp_path: Path) -> None:
    """On loading, it would set the norms itself in float32, and its own check of them could fail."""
    export_sae(make("relu", "pca"), "dictionary_learning", tmp_path / "out")
    W_dec = torch.load(tmp_path / "out" / "ae.pt", weights_only=True)["decoder.weight"]
    torch.testing.assert_close(W_dec.norm(dim=0), torch.ones(64))


def test_metadata_reach_saelens(make: Any, tmp_path: Path) -> None:
    export_sae(make("topk", "pca"), "saelens", tmp_path / "out")
    metadata = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert metadata["gamma"] == 20.0
    assert metadata["preprocessing"] == "pca"
    assert metadata["sae_lens_version"] == "6.54.12"


@pytest.mark.parametrize("library", ["dictionary_learning", "sparsify"])
@pytest.mark.parametrize("preprocessing", sorted(TOKEN_NORMS))
def test_token_norms_are_refused_with_a_way_out(library: str, preprocessing: str, make: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"each token by a number of its own; .* --to saelens"):
        export_sae(make("topk", preprocessing), library, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_dictionary_learning_has_no_latents_of_either_sign(make: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no class for an SAE that is 'abs_topk'; use --to saelens"):
        export_sae(make("abs_topk", "raw"), "dictionary_learning", tmp_path / "out")


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "batch_topk", "abs_topk"])
def test_sparsify_takes_topk_only(architecture: str, make: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"TopK SAEs only, and this one is '{architecture}'"):
        export_sae(make(architecture, "raw"), "sparsify", tmp_path / "out")


@pytest.mark.parametrize(
    ("preprocessing", "difference"),
    [("layernorm", "5e-6 / s^2"), ("rescale", "NaN of a token of zeros"), ("pca", None)],
)
def test_where_saelens_computes_something_else_both_ways_say_so(
    preprocessing: str, difference: str | None, make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (
        lambda: export_sae(make("topk", preprocessing), "saelens", tmp_path / "out"),
        lambda: import_sae(tmp_path / "out"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            step()
        assert difference in caplog.text if difference else not caplog.text


def test_export_replaces_an_export_and_nothing_else(make: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_sae(make("topk", "raw"), "saelens", out)
    export_sae(make("relu", "raw"), "saelens", out)
    assert import_sae(out).sae.architecture == "relu"
    with pytest.raises(UserError, match="holds other files"):
        export_sae(make("topk", "raw"), "dictionary_learning", out)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\); name a new folder"):
        export_sae(make("topk", "raw"), "saelens", out)
    assert (out / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UserError, match="is a file"):
        export_sae(make("topk", "raw"), "saelens", out / "thesis.tex")
    with pytest.raises(UserError, match=r"thesis.tex: is a file"):
        export_sae(make("topk", "raw"), "saelens", out / "thesis.tex" / "below")


def test_a_folder_that_does_not_exist_yet(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export_sae(make("topk", "raw"), "sparsify", Path("a/b"))
    assert sorted(path.name for path in Path("a/b").iterdir()) == ["cfg.json", "sae.safetensors"]
    assert [path.name for path in Path("a").iterdir()] == ["b"]


def test_the_format_is_told_by_the_files(make: Any, tmp_path: Path) -> None:
    for library in FORMATS:
        export_sae(make("topk", "raw"), library, tmp_path / library)
        assert import_sae(tmp_path / library).about["imported_from"] == library
    with pytest.raises(UserError, match=r"holds 3 SAE\(s\) in subfolders; name one, as in .*saelens|dict"):
        open_collection(str(tmp_path))[0].load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"saelens: cfg.json and sae_weights.safetensors; dictionary_learning: "):
        import_sae(tmp_path / "empty")
    with pytest.raises(UserError, match=r"sae.safetensors: no such file|cfg.json: no such file"):
        import_sae(tmp_path / "saelens", "sparsify")
    with pytest.raises(UserError, match="no such folder"):
        import_sae(tmp_path / "none")
    with pytest.raises(UserError, match=r"cfg.json: is a file; name the folder it lies in"):
        import_sae(tmp_path / "saelens" / "cfg.json")
    with pytest.raises(UserError, match="no format 'onnx'; allowed: saelens"):
        export_sae(make("topk", "raw"), "onnx", tmp_path / "out")


def test_an_sae_of_another_library_is_not_one_of_ours_and_the_message_says_what_to_do(
    make: Any, tmp_path: Path
) -> None:
    save_sae(make("topk", "raw"), tmp_path / "ours.safetensors")
    assert load_own(tmp_path / "ours.safetensors").sae.k == 6
    for library, form in FORMATS.items():
        folder = tmp_path / library
        export_sae(make("topk", "raw"), library, folder)
        for path in (folder, *(folder / name for name in form.files)):
            with pytest.raises(UserError, match=f"an SAE of {library}; first: saelib import {folder} sae.safetensors"):
                load_own(path)
    with pytest.raises(UserError, match="an SAE of saelens; first: saelib import"):
        load_any(str(tmp_path / "saelens" / "sae_weights.safetensors"))


def test_the_folder_of_a_trained_variant_stands_for_the_sae_in_it(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "baseline"
    folder.mkdir()
    save_sae(make("topk", "raw"), folder / "weights.safetensors")
    (folder / "sweep.json").write_text("{}")
    wanted = load_own(folder / "weights.safetensors").sae.W_enc
    saved, name = load_any(str(folder))
    assert name == "baseline"
    for sae in (load_own(folder).sae, saved.sae):
        torch.testing.assert_close(sae.W_enc, wanted, rtol=0, atol=0)


def test_where_an_import_may_be_written(make: Any, tmp_path: Path) -> None:
    for name in ("back.pt", "back", "back.npz"):
        with pytest.raises(UserError, match=r"the output is a \.safetensors file; name it back\.safeten"):
            check_output(tmp_path / name)
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "out" / "sae_weights.safetensors"
    check_output(ours)
    save_sae(make("topk", "raw"), ours)
    check_output(ours)
    export_sae(make("topk", "raw"), "saelens", theirs.parent)
    with pytest.raises(UserError, match=r"exists and is not an SAE of saelib; name another file"):
        check_output(theirs)
