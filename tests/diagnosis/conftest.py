"""Layers with one planted fault each."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

TOKENS, D_IN = 6000, 96

Layer = NDArray[np.float32]


def ordinary(seed: int = 0, tokens: int = TOKENS) -> Layer:
    """Gaussian activations in all directions about a mean that is short against their spread."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 1.5, D_IN)
    return (rng.standard_normal((tokens, D_IN)) * spread + 0.1 * rng.standard_normal(D_IN)).astype(np.float32)


def one_dimension() -> Layer:
    """One dimension between 2,550 and 4,625 while the others lie within 5: the published Bird-MAE case."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-5, 5, (TOKENS, D_IN))
    x[:, 37] = rng.uniform(2550, 4625, TOKENS)
    return x.astype(np.float32)


def massive() -> Layer:
    """1 % of the tokens are 300 times as long, over an offset that kills by itself; they come first in each hundred."""
    rng = np.random.default_rng(2)
    x = ordinary(2) + 3 * rng.standard_normal(D_IN).astype(np.float32)
    x[::100] = 300 * np.abs(rng.standard_normal(D_IN)) * np.sqrt(D_IN) / np.sqrt(D_IN)
    return x.astype(np.float32)


def three_directions() -> Layer:
    """Three directions hold all the variance, about no mean."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((D_IN, 3)))[0]
    small = 0.02 * rng.standard_normal((TOKENS, D_IN))
    return (3 * rng.standard_normal((TOKENS, 3)) @ basis.T + small).astype(np.float32)


def all_ones() -> Layer:
    """An offset along (1, ..., 1), which LayerNorm removes: the paper's gamma does not see it."""
    return ordinary(4) + np.float32(4)


LAYERS: dict[str, Callable[[], Layer]] = {
    "one dimension": one_dimension,
    "massive tokens": massive,
    "three directions": three_directions,
    "nothing wrong": ordinary,
    "all ones": all_ones,
}


@pytest.fixture(scope="session")
def layers() -> dict[str, Layer]:
    return {name: make() for name, make in LAYERS.items()}
