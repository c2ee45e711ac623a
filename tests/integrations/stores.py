"""Activations on which SAEs are born dead, each for another reason."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from saelib.config.synthetic import SyntheticConfig
from saelib.synthetic import make_data

D_IN, TOKENS, BATCH = 64, 20_000, 500


def steady() -> NDArray[np.float32]:
    """Sparse features about a mean ten times as long as their spread. Centering is enough."""
    return _about_a_mean()[0]


def shifted() -> NDArray[np.float32]:
    """The same, but the first batch comes from one document, whose mean lies as far away again.

    A center that a library takes from that batch alone is wrong for the rest.
    """
    x, spread = _about_a_mean()
    x[:BATCH, 1] += 10 * spread
    return x


def _about_a_mean() -> tuple[NDArray[np.float32], float]:
    features = make_data(SyntheticConfig(gamma=10, d_in=D_IN, n_features=256, active=6), seed=0)
    return features.sample(TOKENS, np.random.default_rng(1)), features.signal_norm


def narrow() -> NDArray[np.float32]:
    """The same features about a mean, with nearly all variance in three directions. Only whitening is enough."""
    rng = np.random.default_rng(2)
    directions = np.linalg.qr(rng.standard_normal((D_IN, D_IN)))[0]
    wide = 30 * rng.standard_normal((TOKENS, 3)) @ directions[:3] + 100 * directions[3]
    features = make_data(SyntheticConfig(d_in=D_IN, n_features=256, active=6), seed=0)
    return (features.sample(TOKENS, rng) + wide).astype(np.float32)


STORES: dict[str, Callable[[], NDArray[np.float32]]] = {"narrow": narrow, "shifted": shifted, "steady": steady}
