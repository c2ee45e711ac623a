"""The lines that a diagnosis prints run as they stand; for the real libraries, `test_real_libraries` runs them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import saelib
from saelib.config.load import check_config
from saelib.diagnosis.remedies import LIBRARIES, lines_for
from saelib.diagnosis.result import Diagnosis
from tests.integrations.stand_ins import Parameters, SAELens, Saev, SparseCoder, TopKTrainer
from tests.integrations.stores import narrow, shifted

D_IN, D_SAE, K, ROWS = 24, 96, 6, 2000
STAND_INS = {
    "torch": Parameters, "saelens": SAELens, "dictionary_learning": TopKTrainer, "sparsify": SparseCoder, "saev": Saev,
}  # fmt: skip


@pytest.fixture(scope="module")
def layers() -> dict[str, tuple[np.ndarray, Diagnosis]]:
    """Rows that need centering, and rows that need whitening."""
    found = {}
    for remedy, x in {"mean_center": shifted()[500:], "pca_whiten": narrow()}.items():
        rows = np.ascontiguousarray(x[:ROWS, :D_IN])
        found[remedy] = rows, saelib.diagnose(rows, d_sae=D_SAE, k=K, threads=1)
    return found


@pytest.mark.parametrize("remedy", ["mean_center", "pca_whiten"])
@pytest.mark.parametrize("library", STAND_INS)
def test_the_lines_run(library: str, remedy: str, layers: dict[str, tuple[np.ndarray, Diagnosis]]) -> None:
    rows, found = layers[remedy]
    assert found.recommendation == remedy
    made = STAND_INS[library]()
    x = torch.from_numpy(rows)
    names: dict[str, Any] = {"acts": rows, "sae": made, "trainer": made, "x": x}
    if library == "torch" and remedy == "pca_whiten":
        names["z_hat"] = torch.from_numpy(found.preprocessing.apply(rows))  # type: ignore[union-attr]
        exec(lines_for(found, library), names)
        assert np.abs(np.cov(names["z"].numpy().T) - np.eye(D_IN)).max() < 0.05
        np.testing.assert_allclose(names["x_hat"], rows, atol=1e-2)
    else:
        exec(lines_for(found, library), names)
        b_dec = getattr(made, "ae", made).b_dec.detach().numpy()
        np.testing.assert_allclose(b_dec, names["found"].center, rtol=1e-5)


@pytest.mark.parametrize("remedy", ["mean_center", "pca_whiten"])
def test_the_lines_for_a_suite_are_a_config(remedy: str, layers: dict[str, tuple[np.ndarray, Diagnosis]]) -> None:
    shown = yaml.safe_load(lines_for(layers[remedy][1], "saelib"))
    source = {"family": "arrays", "files": {1: "1.npy"}}
    config = check_config(shown | {"models": {"any": {"domain": "other", "source": source, "layers": [1]}}}, "lines")
    (variant,) = set(shown["train"]["variants"])
    wanted = {"mean_center": "center_median", "pca_whiten": "pca"}[remedy]
    assert shown["train"]["variants"][variant]["preprocessing"] == wanted
    assert variant in config.train.variants


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_file_is_named_in_the_lines(
    library: str, tmp_path: Path, layers: dict[str, tuple[np.ndarray, Diagnosis]]
) -> None:
    np.save(tmp_path / "layer.npy", layers["mean_center"][0])
    found = saelib.diagnose(tmp_path / "layer.npy", d_sae=D_SAE, k=K, threads=1)
    assert library == "saelib" or f"{str(tmp_path / 'layer.npy')!r}, d_sae=96, k=6" in lines_for(found, library)
