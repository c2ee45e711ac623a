from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from saelib.activations.rows import ArrayRows
from saelib.config import TrainConfig, VariantConfig
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, Subject
from saelib.train.training import train_from_store


@pytest.fixture(autouse=True)
def _one_thread():
    """Bits are promised for one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def statistics() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The arrays of the stage `stats` for some rows; means stand in for medians."""
    return _statistics


def _statistics(x: np.ndarray) -> dict[str, np.ndarray]:
    x = x.astype(np.float64)
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(x.T, ddof=0))
    tokens = x - x.mean(1, keepdims=True)
    tokens /= np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return {
        "mean": x.mean(0),
        "std": x.std(0),
        "center_median": x.mean(0),
        "center_coordinate_median": np.median(x, 0),
        "center_trimmed_mean": x.mean(0),
        "ln_center_median": tokens.mean(0),
        "eigenvalues": eigenvalues[::-1],
        "eigenvectors": eigenvectors[:, ::-1],
    }


@pytest.fixture
def train_on(tmp_path: Path) -> Callable[..., Path]:
    """Train a sweep on two arrays; gives the folder of its results."""

    def run(
        train: np.ndarray,
        heldout: np.ndarray,
        config: TrainConfig,
        variant: VariantConfig,
        folder: str = "out",
        *,
        seed: int = 3,
        key: str = "k1",
        arrays: Mapping[str, np.ndarray] | None = None,
        heldout_examples: np.ndarray | None = None,
        device: str = "cpu",
    ) -> Path:
        rows = ArrayRows(train, "toy (train)", block_rows=512)
        data = LayerData(
            rows,
            ArrayRows(heldout, "toy (heldout)", block_rows=512),
            _statistics(train) if arrays is None else arrays,
            heldout_examples,
        )
        sweep = start_sweep(data, config, variant, subject=Subject("toy", 4, "test"), seed=seed, device=device)
        train_from_store(sweep, rows, Destination(tmp_path / folder, key))
        return tmp_path / folder

    return run
