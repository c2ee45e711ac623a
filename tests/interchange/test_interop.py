"""The libraries load our exports, and we import their files; outputs agree to 1e-4.

Each library runs in an environment of its own: `make test-interop` creates them.
"""

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from benchmarks.peers import PEERS, python_of
from saelib.config.preprocessings import PreprocessingName
from saelib.errors import UserError
from saelib.interchange import export_sae, import_sae
from saelib.sae.model import Architecture

pytestmark = pytest.mark.interop

PREPROCESSINGS = [*get_args(PreprocessingName), "partial_pca", "active_subspace"]
TOKEN_NORMS = {"layernorm", "ln_center", "rescale"}
EXPORTS = [
    (library, architecture, preprocessing)
    for library in PEERS
    for architecture in get_args(Architecture)
    for preprocessing in PREPROCESSINGS
    if library == "saelens" or preprocessing not in TOKEN_NORMS
    if library != "sparsify" or architecture == "topk"
    if library != "dictionary_learning" or architecture != "abs_topk"
]
MADE = {
    "saelens": [
        "standard",
        "standard_layer_norm",
        "topk",
        "topk_not_centered",
        "topk_by_decoder_norm",
        "topk_rescaled",
        "jumprelu",
        "batch_topk",
    ],
    "dictionary_learning": [
        "AutoEncoder",
        "AutoEncoderNew",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "BatchTopKSAE-unmeasured",
        "MatryoshkaBatchTopKSAE",
        "JumpReluAutoEncoder",
    ],
    "sparsify": ["topk", "topk_expansion"],
}


def worst(*differences: np.ndarray) -> float:
    """Returns a Python float, because parallel pytest cannot pass on numpy's."""
    return float(max(np.abs(one).max() for one in differences))


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory, make: Any, rows: Any) -> Callable[[str], Path]:
    """Gives the folder in which a library has loaded all our exports and saved SAEs of its own."""

    @cache
    def folder(library: str) -> Path:
        python = python_of(library)
        if python is None:  # 5 GB of packages that conflict with ours; the test beside this one needs none of them
            pytest.skip(f"{library} is not installed; make test-interop installs it")
        path = tmp_path_factory.mktemp(library)
        np.save(path / "x.npy", rows)
        for name, architecture, preprocessing in EXPORTS:
            if name == library:
                export_sae(
                    make(architecture, preprocessing), library, path / "exported" / f"{architecture}-{preprocessing}"
                )
        script = Path(__file__).parent / "peers" / f"peer_{library}.py"
        done = subprocess.run([python, script, path], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return path

    return folder


@pytest.mark.parametrize(("library", "architecture", "preprocessing"), EXPORTS)
def test_the_library_computes_what_we_do(
    library: str, architecture: str, preprocessing: str, exchanged: Any, make: Any, run: Any, rows: Any,
    record_property: Any,
) -> None:  # fmt: skip
    theirs = np.load(exchanged(library) / "loaded" / f"{architecture}-{preprocessing}.npz")
    saved = make(architecture, preprocessing)
    codes, x_hat = run(saved, rows)
    if library == "dictionary_learning" and architecture == "relu":
        inverse = saved.preprocess.inverse
        rows_of_W_dec = saved.sae.W_dec.detach().numpy()
        if inverse is not None:
            rows_of_W_dec = rows_of_W_dec @ (np.diag(inverse) if inverse.ndim == 1 else inverse)
        # As it loads an AutoEncoder, that library gives the decoder unit norm.
        codes = codes * np.linalg.norm(rows_of_W_dec, axis=1)
    assert 0.02 < (codes > 0).mean() < 0.9
    record_property("error", worst(theirs["codes"] - codes, theirs["x_hat"] - x_hat))
    np.testing.assert_allclose(theirs["codes"], codes, rtol=0, atol=1e-4)
    np.testing.assert_allclose(theirs["x_hat"], x_hat, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("library", "name"), [(library, name) for library in MADE for name in MADE[library]])
def test_we_compute_what_the_library_does(
    library: str, name: str, exchanged: Any, run: Any, rows: Any, record_property: Any
) -> None:
    folder = exchanged(library) / "made"
    theirs = np.load(folder / f"{name}.npz")
    codes, x_hat = run(import_sae(folder / name), rows)
    assert 0.02 < (codes > 0).mean() < 0.9
    record_property("error", worst(theirs["codes"] - codes, theirs["x_hat"] - x_hat))
    np.testing.assert_allclose(codes, theirs["codes"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(x_hat, theirs["x_hat"], rtol=0, atol=1e-4)


def test_a_gated_autoencoder_is_refused(exchanged: Any) -> None:
    with pytest.raises(UserError, match=r"config.json: 'dict_class' is 'GatedAutoEncoder', which cannot be read"):
        import_sae(exchanged("dictionary_learning") / "made" / "GatedAutoEncoder")
