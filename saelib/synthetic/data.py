"""Synthetic activations: scale * signal + offset."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saelib.config.synthetic import BenchmarkDataConfig, SyntheticConfig
from saelib.synthetic.codes import Codes
from saelib.synthetic.sparse import random_directions, sparse_signal


class Signal(Protocol):
    """Activations without their offset: sparse sums of known features."""

    @property
    def features(self) -> NDArray[np.floating]:
        """[n_features, d_in], unit rows."""
        ...

    @property
    def mean(self) -> NDArray[np.float64]:
        """[d_in]"""
        ...

    @property
    def norm(self) -> float:
        """||sigma||, the square root of the total variance."""
        ...

    def sample(self, tokens: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], Codes]:
        """Draws independent rows [tokens, d_in], and the features in them."""
        ...


@dataclass(frozen=True, eq=False)
class SyntheticData:
    """A distribution of activations with known features.

    Data that differ only in their scale and offset have the same `source`, so one stream of `signal` serves SAEs of
    every gamma: each trains on `scale * signal + offset`.
    """

    source: Signal
    """The activations without scale and offset."""
    scale: float
    """Factor of the signal."""
    offset: NDArray[np.float64]
    """[d_in]"""

    @property
    def features(self) -> NDArray[np.floating]:
        """[n_features, d_in], unit rows: the directions that an SAE should find."""
        return self.source.features

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean [d_in]: the offset plus the mean of the signal."""
        return self.scale * self.source.mean + self.offset

    @property
    def signal_norm(self) -> float:
        """||sigma||, the square root of the total variance."""
        return self.scale * self.source.norm

    @property
    def gamma(self) -> float:
        """Outlier severity ||mean|| / ||sigma|| of the raw activations."""
        return float(np.linalg.norm(self.mean)) / self.signal_norm

    def sample(self, tokens: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draws independent activations [tokens, d_in].

        The same state of `rng` gives the same bits on the same machine. Calls for multiples of 1,024 tokens give the
        same stream, whatever their sizes.
        """
        return self.sample_with_codes(tokens, rng)[0]

    def signal(self, tokens: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draws the part [tokens, d_in] that data of every gamma share: `sample` without scale and offset."""
        return self.source.sample(tokens, rng)[0]

    def sample_with_codes(self, tokens: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], Codes]:
        """Draws the same activations as `sample`, with the features in each: the truth that scores compare with.

        The magnitudes are those of the signal, before `scale`.
        """
        rows, codes = self.source.sample(tokens, rng)
        rows *= np.float32(self.scale)
        rows += self.offset.astype(np.float32)
        return rows, codes


def make_data(config: SyntheticConfig | BenchmarkDataConfig, seed: int) -> SyntheticData:
    """Draws features, and chooses the offset that gives the data their gamma.

    With a gamma, the mean is gamma * ||sigma|| along the direction of the offset. The moments of a `SyntheticConfig`
    are exact. Those of a `BenchmarkDataConfig` have no closed form and are measured on 2^17 tokens: the length of the
    mean, in units of ||sigma||, is known to 0.003.

    Raises:
        UserError: If the directions of `low_rank` hold more than their share of the variance anyway.

    Example:
        >>> import numpy as np
        >>> from saelib.config.synthetic import SyntheticConfig
        >>> from saelib.synthetic import make_data
        >>> data = make_data(SyntheticConfig(gamma=20), seed=0)
        >>> data.sample(4096, np.random.default_rng(1)).shape
        (4096, 50)
        >>> round(data.gamma, 6)
        20.0
    """
    if isinstance(config, BenchmarkDataConfig):
        from saelib.synthetic.benchmark import benchmark_signal, published_offset

        source, scale = benchmark_signal(config.edition, seed), 1.0
        offset = published_offset(source.recipe, seed)
        direction = offset / np.linalg.norm(offset)
    else:
        source, scale = sparse_signal(config, seed), config.signal_scale
        direction = _direction(config, seed)
        offset = (config.offset_norm or 0.0) * direction
    if config.gamma is not None:
        offset = config.gamma * scale * source.norm * direction - scale * source.mean
    return SyntheticData(source, scale, offset)


def _direction(config: SyntheticConfig, seed: int) -> NDArray[np.float64]:
    if config.rotated:
        return random_directions(1, config.d_in, np.random.default_rng([seed, 3]))[0]
    direction = np.zeros(config.d_in)
    direction[: config.outlier_dimensions] = 1 / math.sqrt(config.outlier_dimensions)
    return direction
