"""Fit preprocessings, x -> (f(x) - center) @ scale, to a layer's statistics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from saelib.config.preprocessings import (
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
"""A dimension with less than this share of the largest variance is rounding noise, and is not scaled up to 1."""


Arrays = Mapping[str, NDArray[Any]]


def make_preprocessing(
    config: PreprocessingConfig | PreprocessingName,
    arrays: Arrays,
    *,
    tokens: int | None = None,
    name: str = "statistics",
) -> Preprocessing:
    """Builds a preprocessing from a layer's statistics.

    - `raw` leaves activations as they are. `center_median`, `center_mean`, `center_coordinate_median` and
      `center_trimmed_mean` subtract the geometric median, the mean, each dimension's median, or its trimmed mean.
    - `layernorm` applies LayerNorm to each token; `ln_center` then subtracts the geometric median of the result.
    - `rescale` scales each token to the length sqrt(d_in) (Templeton et al. 2024).
    - `zscore` subtracts the mean and divides by the standard deviation; constant dimensions become 0.
    - `pca` subtracts the mean, projects onto the eigenvectors of the covariance and scales each to variance 1;
      directions without variance are dropped. `partial_pca` scales to the variance lambda^(1 - alpha) instead.
    - `active_subspace` does the same as `center_median`, and adds the leading eigenvectors of the covariance, in which
      an SAE then starts.

    Args:
        config: one of these; those without options may be given by name. `auto` is not among them: choose first, by
            `saelib.train.rules`.
        arrays: arrays that the stage `stats` writes; only those that `config` needs are read.
        tokens: number of tokens behind `arrays`; None skips the check that they suffice for a whitening.
        name: name of the layer in messages.

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
            raise UserError(f"{statistics.what} must be chosen first, by saelib.train.rules")


def whitening_directions(arrays: Arrays, alpha: float, name: str = "statistics") -> NDArray[np.float32]:
    """Computes U Lambda^(-alpha/2) [d_in, r] of the covariance U Lambda U'; a Gaussian combination of its columns
    points along Sigma^(-alpha/2) u, with u uniform on the sphere.

    Directions without variance are left out, and Lambda is relative to the largest variance.

    Args:
        arrays: Arrays that the stage `stats` writes: `eigenvalues` and `eigenvectors`.
        alpha: Degree of whitening, in [0, 1].
        name: Name of the layer in messages.

    Raises:
        UserError: For missing or non-finite arrays, and activations that are constant.
    """
    statistics = _Statistics(arrays, None, f"{name}: init.rows 'whitened'")
    eigenvalues = statistics.get("eigenvalues")
    kept = statistics.varies(eigenvalues)
    scales = (eigenvalues[kept] / eigenvalues.max()) ** (-alpha / 2)
    return (statistics.get("eigenvectors")[:, kept] * scales).astype(np.float32)


@dataclass(frozen=True)
class _Statistics:
    """A layer's statistics, each checked when it is read."""

    arrays: Arrays
    tokens: int | None
    what: str
    """The beginning of messages."""

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
            raise UserError(f"{self.what}: the activations are constant; there is no variance to divide by")
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
        # Whitening would put all tokens at one distance from each other, whatever their activations are.
        raise UserError(
            f"{statistics.what}: {statistics.tokens} training tokens do not determine a covariance in {len(mean)} "
            f"dimensions; whitening needs {len(mean) + 1} at the very least and {5 * len(mean)} to be of use "
            f"(extraction.tokens); 'center_median' needs no covariance"
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
