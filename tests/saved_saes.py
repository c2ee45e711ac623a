"""Fixtures: SAEs of every architecture and preprocessing, on rows with a large mean and empty directions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saelib.config.preprocessings import ActiveSubspace, PartialWhitening
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE
from saelib.sae.model import SAE, WITH_K, Architecture

D_IN, D_SAE, K, GAMMA = 24, 64, 6, 20.0
OPTIONS: dict[str, Any] = {
    "partial_pca": PartialWhitening(kind="partial_pca", alpha=0.5),
    "active_subspace": ActiveSubspace(kind="active_subspace"),
}

Make = Callable[[str, str], SavedSAE]
Run = Callable[[SavedSAE, NDArray[np.float32]], tuple[NDArray[np.float64], NDArray[np.float64]]]


@pytest.fixture(scope="session")
def rows() -> NDArray[np.float32]:
    """[300, D_IN] with gamma = 20; two dimensions are constant, and four directions in all are empty."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((D_IN - 4, D_IN - 2)) * np.geomspace(0.5, 2, D_IN - 2) / np.sqrt(D_IN)
    varying = np.zeros((300, D_IN))
    varying[:, 1:-1] = rng.standard_normal((300, D_IN - 4)) @ mix
    mean = rng.standard_normal(D_IN)
    return (varying + GAMMA * np.sqrt(varying.var(0).sum()) * mean / np.linalg.norm(mean)).astype(np.float32)


@pytest.fixture(scope="session")
def fit(rows: NDArray[np.float32]) -> Callable[[str], Preprocessing]:
    """A preprocessing by name, fitted to `rows`."""
    x = rows.astype(np.float64)
    x_ln = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(x.T, ddof=0))
    arrays = {
        "mean": x.mean(0),
        "std": x.std(0),
        "center_median": x.mean(0) + 0.05,
        "center_coordinate_median": np.median(x, axis=0),
        "center_trimmed_mean": x.mean(0) - 0.03,
        "ln_mean": x_ln.mean(0),
        "ln_center_median": x_ln.mean(0) + 0.01,
        "eigenvalues": values[::-1].copy(),
        "eigenvectors": vectors[:, ::-1].copy(),
    }
    return lambda name: make_preprocessing(OPTIONS.get(name, name), arrays)


@pytest.fixture(scope="session")
def make(rows: NDArray[np.float32], fit: Callable[[str], Preprocessing]) -> Make:
    """An SAE (architecture, preprocessing) that fires sensibly on `rows`, none of its weights special."""

    def saved(architecture: Architecture, preprocessing: str) -> SavedSAE:
        preprocess = fit(preprocessing)
        read = preprocess.apply(rows)
        d_in, generator = preprocess.d_out, torch.Generator().manual_seed(1)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        # b_dec is off the mean in every dimension, also in those that the preprocessing left empty.
        b_dec = torch.from_numpy(read.mean(0)) + 0.1 * normal(d_in)
        tensors = {"W_enc": normal(d_in, D_SAE) / d_in**0.5, "b_enc": 0.1 * normal(D_SAE), "b_dec": b_dec}
        tensors["W_dec"] = normal(D_SAE, d_in) / d_in**0.5 * torch.rand(D_SAE, 1, generator=generator)
        if architecture == "jumprelu":
            tensors["threshold"] = 0.3 * torch.rand(D_SAE, generator=generator)
        if architecture == "batch_topk":
            tensors["threshold"] = torch.tensor(0.25)
        k = K if architecture in WITH_K else None
        about = {"gamma": GAMMA, "preprocessing": preprocessing, "model": "toy", "layer": 3}
        return SavedSAE(SAE(architecture, tensors, k), preprocess, about)

    return saved  # type: ignore[return-value]


@pytest.fixture(scope="session")
def run() -> Run:
    """Codes and reconstructions of an SAE, as we compute them."""

    @torch.no_grad()
    def outputs(saved: SavedSAE, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        codes = saved.sae.encode(torch.from_numpy(saved.preprocess.apply(x)))
        x_hat = saved.preprocess.restore(saved.sae.decode(codes).numpy(), x)
        return codes.double().numpy(), np.asarray(x_hat, dtype=np.float64)

    return outputs
