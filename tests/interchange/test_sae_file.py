"""Our own file restores an SAE bit for bit, and foreign files are refused."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from saelib.config.preprocessings import PreprocessingName
from saelib.errors import UserError
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE, load_sae, save_sae
from saelib.sae.model import SAE, Architecture


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize("preprocessing", [*get_args(PreprocessingName), "partial_pca", "active_subspace"])
def test_saved_and_loaded(
    architecture: str, preprocessing: str, make: Any, run: Any, rows: Any, tmp_path: Path
) -> None:
    saved = make(architecture, preprocessing)
    save_sae(saved, tmp_path / "sae.safetensors")
    loaded = load_sae(tmp_path / "sae.safetensors")
    assert (loaded.sae.architecture, loaded.sae.k, loaded.about) == (architecture, saved.sae.k, saved.about)
    for name, value in saved.sae.state_dict().items():
        assert torch.equal(loaded.sae.state_dict()[name], value)
    assert loaded.sae.W_enc.T.is_contiguous()
    for mine, theirs in zip(run(saved, rows), run(loaded, rows), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=0, atol=1e-5)
    assert (loaded.preprocess.apply(rows) == saved.preprocess.apply(rows)).all()


def test_the_same_sae_gives_the_same_file(make: Any, tmp_path: Path) -> None:
    saved = make("topk", "pca")
    contents = set()
    for number in range(8):
        save_sae(saved, tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(contents) == 1


def test_whitening_of_centered_activations_keeps_its_width(make: Any, tmp_path: Path) -> None:
    saved = make("topk", "pca")
    centered = replace(saved, preprocess=replace(saved.preprocess, center=np.zeros(24)))
    save_sae(centered, tmp_path / "sae.safetensors")
    assert load_sae(tmp_path / "sae.safetensors").preprocess.d_in == 24


def test_a_figure_that_is_not_a_number_comes_back_as_none(make: Any, tmp_path: Path) -> None:
    save_sae(replace(make("topk", "raw"), about={"mse": float("nan")}), tmp_path / "sae.safetensors")
    assert load_sae(tmp_path / "sae.safetensors").about == {"mse": None}


def test_a_flipped_bit_is_noticed_or_harmless(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "sae.safetensors"
    save_sae(make("topk", "pca"), path)
    good, wanted = path.read_bytes(), everything(load_sae(path))
    # All of the description, in which most bits mean something, and of the numbers a sample.
    described = 8 + int.from_bytes(good[:8], "little")
    chance = random.Random(0)
    for place in (*range(described), *chance.sample(range(described, len(good)), 100)):
        bad = bytearray(good)
        bad[place] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        try:
            found = everything(load_sae(path))
        except UserError:
            continue
        assert found == wanted, place


def everything(saved: SavedSAE) -> tuple[Any, ...]:
    scale = saved.preprocess.scale
    return (
        saved.sae.architecture,
        saved.sae.k,
        saved.about,
        saved.preprocess.token_norm,
        saved.preprocess.center.tobytes(),
        None if scale is None else scale.tobytes(),
        {name: value.numpy().tobytes() for name, value in saved.sae.state_dict().items()},
    )


def test_a_file_without_a_checksum_is_read_too(make: Any, tmp_path: Path) -> None:
    """Files of versions before the checksum are still read."""
    path = tmp_path / "sae.safetensors"
    save_sae(make("batch_topk", "zscore"), path)
    wanted = everything(load_sae(path))
    assert everything(load_sae(rewritten(path, {}, {}))) == wanted


def rewritten(path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    with safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["saelib"])
    del old["sha256"]
    held = {**load_file(path), **tensors}
    save_file(held, path, metadata={"saelib": json.dumps({**old, **header})})
    return path


@pytest.mark.parametrize(
    ("header", "tensors", "message"),
    [
        ({"architecture": "gated"}, {}, "architecture is 'gated', which this version does not know: topk, batch_topk"),
        ({"token_norm": "batchnorm"}, {}, "token norm is 'batchnorm', which this version does not know: none, layern"),
        ({"token_norm": ["none"]}, {}, r'token norm is \["none"\]'),
        ({"about": 3}, {}, "what it says about the SAE is 3; should be an object of named values"),
        ({"k": 65}, {}, "k is 65; should be a whole number from 1 to the number of latents, 64"),
        ({"k": None}, {}, "k is missing"),
        ({"k": 6.0}, {}, r"k is 6\.0"),
        ({"architecture": "jumprelu"}, {}, "lacks threshold"),
        ({}, {"W_dec": torch.zeros(64, 5)}, r"W_dec is \[64, 5\]"),
        ({}, {"b_enc": torch.full((64,), torch.nan)}, "b_enc holds NaN"),
        ({}, {"preprocess_scale": torch.ones(23, 20)}, "preprocess_scale is"),
        ({}, {"preprocess_scale": torch.ones(24, 7)}, "the preprocessing gives 7 dimensions; the SAE reads 20"),
    ],
)
def test_files_that_are_not_ours(header: Any, tensors: Any, message: str, make: Any, tmp_path: Path) -> None:
    path = tmp_path / "sae.safetensors"
    save_sae(make("topk", "pca"), path)
    with pytest.raises(UserError, match=message) as caught:
        load_sae(rewritten(path, header, tensors))
    assert str(path) in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_sae(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"text.safetensors: damaged, or not an SAE written by saelib"):
        load_sae(tmp_path / "text.safetensors")
    for name in ("plain", "theirs"):
        with pytest.raises(UserError, match=f"{name}.safetensors: a safetensors file, but not an SAE written by"):
            load_sae(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"is a folder; should be the file of one SAE, such as weights\.safetensors"):
        load_sae(tmp_path)
    for text in ("[]", "null", "3", '"text"', "{}", "{", "[" * 100_000):
        save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors", metadata={"saelib": text})
        with pytest.raises(UserError, match=r"damaged, its description lacks what an SAE written by saelib has"):
            load_sae(tmp_path / "plain.safetensors")


def test_a_new_sae_takes_the_place_of_the_old(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "sae.safetensors"
    save_sae(make("topk", "raw"), path)
    zeros = {"W_enc": torch.zeros(3, 4), "W_dec": torch.zeros(4, 3), "b_enc": torch.zeros(4), "b_dec": torch.zeros(3)}
    save_sae(SavedSAE(SAE("relu", zeros), Preprocessing(np.zeros(3)), {}), path)
    assert load_sae(path).sae.d_sae == 4
    assert [file.name for file in tmp_path.iterdir()] == ["sae.safetensors"]
