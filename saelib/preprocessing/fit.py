"""What is done to activations before an SAE sees them: x -> (f(x) - center) @ scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from saelib.config.training import (
    ActiveSubspace,
    AutoPreprocessing,
    PartialWhitening,
    PlainPreprocessing,
    PreprocessingConfig,
    PreprocessingName,
)
from saelib.errors import UserError
from saelib.preprocessing.transform import Preprocessing

MIN_VARIANCE = 1e-10
"""Dimensions with less than this share of the largest variance are noise of rounding; they are not blown up to 1."""


Arrays = Mapping[str, NDArray[Any]]


def make_preprocessing(
    config: PreprocessingConfig | PreprocessingName,
    arrays: Arrays,
    *,
    tokens: int | None = None,
    name: str = "statistics",
) -> Preprocessing:
    """Build a preprocessing from a layer's statistics.

    - `raw`: nothing. `center_median`, `center_mean`, `center_coordinate_median`, `center_trimmed_mean`: minus the
      geometric median, the mean, the median of each dimension, or its trimmed mean.
    - `layernorm`: LayerNorm of each token; `ln_center`: then minus the geometric median of the LayerNormed tokens.
    - `rescale`: each token to the length sqrt(d_in) (Templeton et al. 2024).
    - `zscore`: minus the mean, over the standard deviation; constant dimensions become 0.
    - `pca`: minus the mean, onto the eigenvectors of the covariance, each scaled to variance 1; directions without
      variance are dropped. `partial_pca`: scaled to the variance lambda^(1 - alpha).
    - `active_subspace`: as `center_median`, with the leading eigenvectors of the covariance for an SAE to start in.

    Args:
        config: One of these; a name for those without options. `auto` is none of them: see
            `saelib.preprocessing.choose`.
        arrays: What the stage `stats` writes; only the arrays that `config` needs are read.
        tokens: What `arrays` were computed from; None: it is not checked that they suffice for a whitening.
        name: What messages call the layer.

    Raises:
        UserError: for an unknown name, a missing or non-finite array, activations that are constant, fewer than
            d_in + 1 tokens to whiten by, and a subspace of higher rank than the activations have.
    """
    if isinstance(config, str):
        if config not in get_args(PreprocessingName):
            raise UserError(f"no preprocessing '{config}'; allowed: {', '.join(get_args(PreprocessingName))}")
        config = PlainPreprocessing(kind=config)
    statistics = _Statistics(arrays, tokens, f"{name}: preprocessing '{config.kind}'")
    match config:
        case PartialWhitening(alpha=alpha):
            return _whitening(statistics, alpha)
        case ActiveSubspace(rank=rank):
            return Preprocessing(statistics.get("center_median"), subspace=_leading_directions(statistics, rank))
        case PlainPreprocessing(kind=kind):
            return _plain(statistics, kind)
        case AutoPreprocessing():
            raise UserError(f"{statistics.what} is to be chosen first, by saelib.preprocessing.choose")


@dataclass(frozen=True)
class _Statistics:
    """Statistics, and what is built from them."""

    arrays: Arrays
    tokens: int | None
    what: str
    """How messages begin."""

    def get(self, key: str) -> NDArray[np.float64]:
        if key not in self.arrays:
            held = ", ".join(sorted(self.arrays))
            raise UserError(f"{self.what} needs '{key}', which the statistics lack; they hold: {held}")
        values = np.asarray(self.arrays[key], dtype=np.float64)
        if not np.isfinite(values).all():
            raise UserError(f"{self.what}: '{key}' of the statistics holds NaN or infinity")
        return values

    def varies(self, variances: NDArray[np.float64]) -> NDArray[np.bool_]:
        largest = variances.max()
        if largest <= 0:
            raise UserError(f"{self.what}: the activations are constant, there is no variance to divide by")
        return variances > MIN_VARIANCE * largest


def _plain(statistics: _Statistics, kind: PreprocessingName) -> Preprocessing:
    match kind:
        case "raw":
            return Preprocessing(np.zeros_like(statistics.get("mean")))
        case "center_median" | "center_coordinate_median" | "center_trimmed_mean":
            return Preprocessing(statistics.get(kind))
        case "center_mean":
            return Preprocessing(statistics.get("mean"))
        case "layernorm":
            return Preprocessing(np.zeros_like(statistics.get("mean")), token_norm="layernorm")
        case "ln_center":
            return Preprocessing(statistics.get("ln_center_median"), token_norm="layernorm")
        case "rescale":
            return Preprocessing(np.zeros_like(statistics.get("mean")), token_norm="sqrt_d")
        case "zscore":
            std = statistics.get("std")
            scale = np.divide(1, std, out=np.zeros_like(std), where=statistics.varies(std**2))
            return Preprocessing(statistics.get("mean"), scale.astype(np.float32))
        case "pca":
            return _whitening(statistics, alpha=1)


def _whitening(statistics: _Statistics, alpha: float) -> Preprocessing:
    mean, eigenvalues = statistics.get("mean"), statistics.get("eigenvalues")
    if alpha > 0 and statistics.tokens is not None and statistics.tokens <= len(mean):
        # All tokens would lie at one distance from each other, whatever they mean.
        raise UserError(
            f"{statistics.what}: {statistics.tokens} training tokens do not determine a covariance in {len(mean)} "
            f"dimensions; whitening needs {len(mean) + 1} at the very least and {5 * len(mean)} to be of use "
            f"(extraction.tokens); 'center_median' asks for no covariance"
        )
    kept = statistics.varies(eigenvalues)
    matrix = statistics.get("eigenvectors")[:, kept] * eigenvalues[kept] ** (-alpha / 2)
    return Preprocessing(mean, matrix.astype(np.float32))


def _leading_directions(statistics: _Statistics, rank: int | None) -> NDArray[np.float32]:
    available = int(statistics.varies(statistics.get("eigenvalues")).sum())
    if rank is not None and rank > available:
        raise UserError(
            f"{statistics.what}: rank {rank} is more than the {available} directions the activations vary in"
        )
    vectors = statistics.get("eigenvectors")
    rank = rank or max(1, min(len(vectors) // 2, available))
    return vectors[:, :rank].astype(np.float32)
