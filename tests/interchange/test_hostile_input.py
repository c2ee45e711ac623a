"""A damaged or hostile folder gives one clear error that names the file, and nothing in it is run."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saelib.errors import UserError
from saelib.interchange import FORMATS, export_sae, import_sae


@pytest.fixture
def exported(make: Any, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a valid export."""

    def folder(library: str, architecture: str = "topk") -> Path:
        path = tmp_path / library
        export_sae(make(architecture, "center_mean"), library, path)
        return path

    return folder


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_sae(folder)
    assert str(folder) in str(caught.value)


def change_config(folder: Path, **values: Any) -> None:
    (path,) = folder.glob("*.json")
    config = json.loads(path.read_text())
    config.get("trainer", config).update(values)
    path.write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = next(path for path in folder.iterdir() if path.suffix in (".pt", ".safetensors"))
    tensors = torch.load(path, weights_only=True) if path.suffix == ".pt" else load_file(path)
    change(tensors)
    torch.save(tensors, path) if path.suffix == ".pt" else save_file(tensors, path)


@pytest.mark.parametrize("library", FORMATS)
@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '{"k": NaN}', "[" * 100_000, "\xff\xfe"])
def test_settings_that_are_not_settings(library: str, text: str, exported: Any) -> None:
    folder = exported(library)
    (path,) = folder.glob("*.json")
    path.write_bytes(text.encode("latin-1"))
    refused(folder, r"not valid JSON|should be an object of named values")


@pytest.mark.parametrize("library", FORMATS)
@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00" * 5000, b"PK\x03\x04 not a zip", b"\xff" * 64])
def test_weights_that_are_not_weights(library: str, data: bytes, exported: Any) -> None:
    folder = exported(library)
    (folder / FORMATS[library].files[1]).write_bytes(data)
    refused(folder, r"not a valid safetensors file|not a file of plain tensors")


@pytest.mark.parametrize("library", FORMATS)
def test_truncated_weights(library: str, exported: Any) -> None:
    folder = exported(library)
    path = folder / FORMATS[library].files[1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(folder, r"not a valid safetensors file|not a file of plain tensors")


@pytest.mark.parametrize("library", FORMATS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(next(iter(t))), "lacks "),
        (lambda t: t.update(W_skip=torch.zeros(2, 2)), "also holds W_skip"),
        (
            lambda t: t.update({name: value[..., :-1].clone() for name, value in t.items() if "dec" in name}),
            "should be",
        ),
        (lambda t: t.update({name: value.unsqueeze(0) for name, value in t.items() if name == "b_dec"}), "b_dec is "),
        (lambda t: t["b_dec"].fill_(float("nan")), "b_dec holds NaN"),
        (lambda t: t.update(b_dec=torch.full_like(t["b_dec"], 1e300, dtype=torch.float64)), "too large for float32"),
        (lambda t: t.update(b_dec=t["b_dec"].int()), r"b_dec holds int32; should be floating point"),
        (lambda t: t.update({name: value[:0].clone() for name, value in t.items() if value.ndim}), "should be"),
    ],
)
def test_tensors_that_do_not_fit(library: str, change: Any, message: str, exported: Any) -> None:
    folder = exported(library)
    change_weights(folder, change)
    refused(folder, message)


def test_no_latents_at_all(exported: Any) -> None:
    folder = exported("saelens", "relu")
    change_config(folder, d_sae=0)
    none = {"W_enc": torch.zeros(24, 0), "W_dec": torch.zeros(0, 24), "b_enc": torch.zeros(0)}
    change_weights(folder, lambda tensors: tensors.update(none))
    refused(folder, r"W_enc is \[24, 0\]")


@pytest.mark.parametrize("library", FORMATS)
@pytest.mark.parametrize("k", [0, -3, 65, True, 2.0, "5", None, 10**30])
def test_k_must_be_a_number_of_latents(library: str, k: Any, exported: Any) -> None:
    folder = exported(library)
    change_config(folder, k=k)
    refused(folder, r"k is .*; should be a whole number from 1 to the number of latents, 64")


@pytest.mark.parametrize(
    ("library", "values", "message"),
    [
        (
            "saelens",
            {"architecture": "gated"},
            r"'architecture' is 'gated', which cannot be read; can be: 'topk', 'abstopk', 'st",
        ),
        ("saelens", {"architecture": ["topk"]}, "'architecture' is"),
        ("saelens", {"architecture": "batchtopk"}, "'architecture' is 'batchtopk'"),
        ("saelens", {"normalize_activations": "expected_average_only_in"}, "fold it into the weights with SAELens"),
        ("saelens", {"normalize_activations": "covariance_whitening"}, "fold it into the weights with SAELens"),
        ("saelens", {"normalize_activations": "softmax"}, "can be: 'none', 'layer_norm', 'constant_norm_rescale'"),
        ("saelens", {"apply_b_dec_to_input": "yes"}, "'apply_b_dec_to_input' is 'yes'; should be true or false"),
        ("saelens", {"d_in": 25}, "'d_in' is 25; the weights have 24"),
        ("dictionary_learning", {"dict_class": "GatedAutoEncoder"}, "'dict_class' is 'GatedAutoEncoder'"),
        ("dictionary_learning", {"dict_class": None}, "'dict_class' is missing"),
        ("dictionary_learning", {"dict_class": "JumpReluAutoEncoder"}, "lacks W_dec, W_enc, b_enc"),
        ("dictionary_learning", {"dict_size": 63}, "'dict_size' is 63; the weights have 64"),
        ("dictionary_learning", {"k": 5}, "its 'k' is not the 5 that config.json has"),
        ("sparsify", {"activation": "groupmax"}, "'activation' is 'groupmax', which cannot be read; can be: 'topk'"),
        ("sparsify", {"skip_connection": True}, "'skip_connection' is true"),
        ("sparsify", {"transcode": True}, "'transcode' is true: it predicts something other than its input"),
        ("sparsify", {"num_latents": 63}, "'num_latents' is 63; the weights have 64"),
    ],
)
def test_settings_that_we_cannot_follow(library: str, values: dict[str, Any], message: str, exported: Any) -> None:
    folder = exported(library)
    change_config(folder, **values)
    refused(folder, message)


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {os.environ['SAELIB_BOMB']}",)


@pytest.mark.parametrize("wrap", [lambda bomb, t: bomb, lambda bomb, t: {**t, "b_dec": bomb}])
def test_code_in_a_pickle_is_not_run(wrap: Any, exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported("dictionary_learning")
    monkeypatch.setenv("SAELIB_BOMB", str(tmp_path / "ran"))
    tensors = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(wrap(Bomb(), tensors), folder / "ae.pt")
    refused(folder, "not a file of plain tensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(1 << 20, 1 << 20),
        torch.zeros(3, 3).to_sparse(),
        torch.empty(1 << 20, 1 << 20, device="meta"),
        "text",
    ],
)
def test_tensors_that_only_claim_to_be_there(tensor: Any, exported: Any) -> None:
    folder = exported("dictionary_learning")
    tensors = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({**tensors, "encoder.weight": tensor}, folder / "ae.pt")
    refused(folder, "should be a dictionary of plain tensors, and nothing else")


def test_saelens_before_version_6(exported: Any, run: Any, rows: Any) -> None:
    """It has no architecture and no metadata; TopK is an activation function with arguments."""
    folder = exported("saelens")
    codes, _ = run(import_sae(folder), rows)
    old = {"d_in": 24, "d_sae": 64, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6}}
    (folder / "cfg.json").write_text(json.dumps(old | {"normalize_activations": False}))
    assert (run(import_sae(folder), rows)[0] == codes).all()
    (folder / "cfg.json").write_text(json.dumps({"d_in": 24, "d_sae": 64}))
    assert import_sae(folder).sae.architecture == "relu"
