"""What is done to activations before an SAE sees them: x -> (f(x) - center) @ scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from saelib.config.schema import Preprocessing
from saelib.errors import UserError

LN_EPS = 1e-5

MIN_VARIANCE = 1e-10
"""Dimensions with less than this share of the largest variance are noise of rounding; they are not blown up to 1."""


@dataclass(frozen=True, eq=False)
class Preprocess:
    """One preprocessing, fitted. Build it with `make_preprocess`."""

    center: NDArray[np.float64]
    """[d_in]; subtracted after the LayerNorm, before the scale."""
    scale: NDArray[np.float32] | None = None
    """None; [d_in], one factor for each dimension; or [d_in, d_out], a matrix applied from the right."""
    layernorm: bool = False
    """Whether each token is first normalised by `layer_norm`."""

    @property
    def d_in(self) -> int:
        """Width of what goes in."""
        return self.center.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what comes out: smaller than `d_in` where whitening drops empty directions."""
        return self.d_in if self.scale is None else self.scale.shape[-1]

    def apply(self, x: NDArray[np.floating], offset: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Preprocess activations `x + offset`: [tokens, d_in] -> a fresh float32 array [tokens, d_out].

        `offset` [d_in] (zero where None) is kept apart as in `saelib.rows.Rows`: what it has in common with the
        centre cancels before anything is rounded to float32, so that a large mean costs no precision.
        """
        if self.layernorm:
            centred = layer_norm(x if offset is None else x + offset.astype(np.float64)) - self.center
        else:
            centred = x - (self.center if offset is None else self.center - offset)
        values = centred.astype(np.float32)
        if self.scale is None:
            return values
        return values * self.scale if self.scale.ndim == 1 else values @ self.scale


def layer_norm(x: NDArray[np.floating], eps: float = LN_EPS) -> NDArray[np.float64]:
    """LayerNorm of each token without affine parameters: (x - mean_j x_j) / sqrt(var_j x_j + eps), [tokens, d_in]."""
    centred = x - x.mean(axis=1, dtype=np.float64, keepdims=True)
    variance = np.einsum("td,td->t", centred, centred) / x.shape[1]
    centred /= np.sqrt(variance + eps)[:, None]
    return centred


def make_preprocess(name: Preprocessing, arrays: Mapping[str, NDArray[Any]]) -> Preprocess:
    """Build a preprocessing from a layer's statistics.

    - `raw`: nothing. `center_median`, `center_mean`: minus the geometric median, or the mean.
    - `ln_center`: LayerNorm, then minus the geometric median of the LayerNormed tokens.
    - `zscore`: minus the mean, over the standard deviation; constant dimensions become 0.
    - `pca`: minus the mean, onto the eigenvectors of the covariance, each scaled to variance 1; directions without
      variance are dropped.

    Args:
        name: see above.
        arrays: `mean`, `std`, `center_median`, `ln_center_median` [d_in], `eigenvalues` [r], `eigenvectors` [d_in, r]
            (columns), as the stage `stats` writes them; only those that `name` needs are read.

    Raises:
        UserError: for an unknown name, a missing or non-finite array, and activations that are constant.
    """
    match name:
        case "raw":
            return Preprocess(np.zeros_like(_array(arrays, "mean", name)))
        case "center_median":
            return Preprocess(_array(arrays, "center_median", name))
        case "center_mean":
            return Preprocess(_array(arrays, "mean", name))
        case "ln_center":
            return Preprocess(_array(arrays, "ln_center_median", name), layernorm=True)
        case "zscore":
            std = _array(arrays, "std", name)
            varies = _varies(std**2, name)
            scale = np.divide(1, std, out=np.zeros_like(std), where=varies)
            return Preprocess(_array(arrays, "mean", name), scale.astype(np.float32))
        case "pca":
            eigenvalues = _array(arrays, "eigenvalues", name)
            kept = _varies(eigenvalues, name)
            matrix = _array(arrays, "eigenvectors", name)[:, kept] / np.sqrt(eigenvalues[kept])
            return Preprocess(_array(arrays, "mean", name), matrix.astype(np.float32))
    raise UserError(f"no preprocessing '{name}'; allowed: {', '.join(get_args(Preprocessing))}")


def _array(arrays: Mapping[str, NDArray[Any]], key: str, name: str) -> NDArray[np.float64]:
    if key not in arrays:
        raise UserError(f"preprocessing '{name}' needs '{key}', which the statistics lack; they hold: {sorted(arrays)}")
    values = np.asarray(arrays[key], dtype=np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"preprocessing '{name}': '{key}' of the statistics holds NaN or infinity")
    return values


def _varies(variances: NDArray[np.float64], name: str) -> NDArray[np.bool_]:
    largest = variances.max()
    if largest <= 0:
        raise UserError(f"preprocessing '{name}': the activations are constant, there is no variance to divide by")
    return variances > MIN_VARIANCE * largest
