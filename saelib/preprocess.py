"""What is done to activations before an SAE sees them: x -> (f(x) - center) @ scale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from saelib.config.training import (
    ActiveSubspace,
    AutoPreprocessing,
    PartialWhitening,
    PlainPreprocessing,
    Preprocessing,
    PreprocessingConfig,
)
from saelib.errors import UserError

LN_EPS = 1e-5

MIN_VARIANCE = 1e-10
"""Dimensions with less than this share of the largest variance are noise of rounding; they are not blown up to 1."""

AT_CENTER = 2.0**-22
"""A token this close to a center, as a share of the two lengths that were subtracted, lies on it: float32 rounds an
activation by up to a quarter of that share, and the direction of what is left is rounding alone."""

TokenNorm = Literal["none", "layernorm", "sqrt_d"]
"""What is done to each token first: nothing; `layer_norm`; or x * sqrt(d_in) / ||x||, tokens of zeros left alone."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Preprocess:
    """One preprocessing, fitted. Build it with `make_preprocess`."""

    center: NDArray[np.float64]
    """[d_in]; subtracted after the token norm, before the scale."""
    scale: NDArray[np.float32] | None = None
    """None; [d_in], one factor for each dimension; or [d_in, d_out], a matrix with orthogonal columns, applied from
    the right."""
    token_norm: TokenNorm = "none"
    """What is done to each token first."""
    subspace: NDArray[np.float32] | None = None
    """None; or [d_in, rank], orthonormal columns that an SAE's first directions are drawn in. No part of `apply`."""

    @property
    def d_in(self) -> int:
        """Width of what goes in."""
        return self.center.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what comes out: smaller than `d_in` where whitening drops empty directions."""
        return self.d_in if self.scale is None else self.scale.shape[-1]

    @cached_property
    def inverse(self) -> NDArray[np.float32] | None:
        """Undoes `scale`: None, [d_in] or [d_out, d_in]; what the scale drops comes back as 0."""
        if self.scale is None:
            return None
        squares = np.square(self.scale, dtype=np.float64)
        # Orthogonal columns: dividing them by their squared norms gives the pseudo-inverse.
        norms = squares.sum(axis=0) if squares.ndim == 2 else squares
        return np.divide(self.scale, norms, out=np.zeros(self.scale.shape), where=norms > 0).T.astype(np.float32)

    def apply(self, x: NDArray[np.floating], offset: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Preprocess activations `x + offset`: [tokens, d_in] -> a fresh float32 array [tokens, d_out].

        `offset` [d_in] (zero where None) is kept apart as in `saelib.rows.Rows`: what it has in common with the
        center cancels before anything is rounded to float32, so that a large mean costs no precision. A token at the
        center gives exact zeros and no rounding errors, which would be a direction drawn at random.
        """
        lengths = _lengths(x)
        if self.token_norm == "none":
            center = self.center if offset is None else self.center - offset
            centered = x - center
        else:
            center = self.center
            whole = x.astype(np.float64) if offset is None else x + offset.astype(np.float64)
            shift, size = token_shift_and_size(whole, self.token_norm)
            whole -= shift
            _settle(whole, lengths)
            centered = np.divide(whole, size, out=whole, where=size > 0) - center
            lengths = np.divide(lengths, size[:, 0], out=lengths, where=size[:, 0] > 0)
        _settle(centered, lengths + float(np.linalg.norm(center)))
        values = centered.astype(np.float32)
        if self.scale is None:
            return values
        return values * self.scale if self.scale.ndim == 1 else values @ self.scale

    def restore(self, x_hat: NDArray[np.floating], x: NDArray[np.floating]) -> NDArray[np.float64]:
        """From what `apply` gives back to activations: `restore(apply(x), x)` is x, but for dropped directions.

        Args:
            x_hat: [tokens, d_out], such as reconstructions of `apply(x)`.
            x: [tokens, d_in], the activations themselves: a token's norm and mean, which `apply` took away, are theirs.
        """
        if self.inverse is not None:
            x_hat = x_hat * self.inverse if self.inverse.ndim == 1 else x_hat @ self.inverse
        restored = x_hat + self.center
        if self.token_norm != "none":
            shift, size = token_shift_and_size(x, self.token_norm)
            restored = restored * size + shift
        return restored

    def without_center(self) -> tuple[Self, NDArray[np.float64]]:
        """What an SAE's rows go through, and where its b_dec starts [d_out].

        A centre that no scale follows becomes the start of b_dec, which training may move (paper, section 3.1); before
        a scale it is taken off the rows themselves, and b_dec starts at 0.
        """
        if self.scale is None:
            return replace(self, center=np.zeros(self.d_in)), self.center
        return self, np.zeros(self.d_out)


def _settle(difference: NDArray[np.float64], subtracted: NDArray[np.float64]) -> None:
    """Sets rows to zero that are nothing but rounding: tiny against the lengths [tokens] that were subtracted."""
    left = _lengths(difference)
    difference[(left <= AT_CENTER * subtracted) & np.isfinite(left)] = 0


def _lengths(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """[tokens, d] -> [tokens]; infinite where the square overflows."""
    with np.errstate(over="ignore"):
        return np.sqrt(np.einsum("td,td->t", x, x, dtype=np.float64))


def token_shift_and_size(
    x: NDArray[np.floating], token_norm: TokenNorm
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a token norm takes away, x -> (x - shift) / size, as two arrays [tokens, 1]; `x`: [tokens, d_in]."""
    mean = x.mean(axis=1, dtype=np.float64, keepdims=True) if token_norm == "layernorm" else np.zeros((len(x), 1))
    centred = x - mean
    squares = np.einsum("td,td->t", centred, centred)[:, None] / x.shape[1]
    return mean, np.sqrt(squares + (LN_EPS if token_norm == "layernorm" else 0))


def layer_norm(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """LayerNorm of each token without affine parameters: (x - mean_j x_j) / sqrt(var_j x_j + 1e-5), [tokens, d_in]."""
    shift, size = token_shift_and_size(x, "layernorm")
    return (x - shift) / size


def make_preprocess(
    config: PreprocessingConfig | Preprocessing, arrays: Arrays, *, tokens: int | None = None, name: str = "statistics"
) -> Preprocess:
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
            `saelib.choose_preprocessing`.
        arrays: What the stage `stats` writes; only the arrays that `config` needs are read.
        tokens: What `arrays` were computed from; None: it is not checked that they suffice for a whitening.
        name: What messages call the layer.

    Raises:
        UserError: for an unknown name, a missing or non-finite array, activations that are constant, fewer than
            d_in + 1 tokens to whiten by, and a subspace of higher rank than the activations have.
    """
    if isinstance(config, str):
        if config not in get_args(Preprocessing):
            raise UserError(f"no preprocessing '{config}'; allowed: {', '.join(get_args(Preprocessing))}")
        config = PlainPreprocessing(kind=config)
    source = _Source(arrays, tokens, f"{name}: preprocessing '{config.kind}'")
    match config:
        case PartialWhitening(alpha=alpha):
            return _whitening(source, alpha)
        case ActiveSubspace(rank=rank):
            return Preprocess(source.get("center_median"), subspace=_leading_directions(source, rank))
        case PlainPreprocessing(kind=kind):
            return _plain(source, kind)
        case AutoPreprocessing():
            raise UserError(f"{source.what} is to be chosen first, by saelib.choose_preprocessing")


@dataclass(frozen=True)
class _Source:
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


def _plain(source: _Source, kind: Preprocessing) -> Preprocess:
    match kind:
        case "raw":
            return Preprocess(np.zeros_like(source.get("mean")))
        case "center_median" | "center_coordinate_median" | "center_trimmed_mean":
            return Preprocess(source.get(kind))
        case "center_mean":
            return Preprocess(source.get("mean"))
        case "layernorm":
            return Preprocess(np.zeros_like(source.get("mean")), token_norm="layernorm")
        case "ln_center":
            return Preprocess(source.get("ln_center_median"), token_norm="layernorm")
        case "rescale":
            return Preprocess(np.zeros_like(source.get("mean")), token_norm="sqrt_d")
        case "zscore":
            std = source.get("std")
            scale = np.divide(1, std, out=np.zeros_like(std), where=source.varies(std**2))
            return Preprocess(source.get("mean"), scale.astype(np.float32))
        case "pca":
            return _whitening(source, alpha=1)


def _whitening(source: _Source, alpha: float) -> Preprocess:
    mean, eigenvalues = source.get("mean"), source.get("eigenvalues")
    if alpha > 0 and source.tokens is not None and source.tokens <= len(mean):
        # All tokens would lie at one distance from each other, whatever they mean.
        raise UserError(
            f"{source.what}: {source.tokens} training tokens do not determine a covariance in {len(mean)} dimensions; "
            f"whitening needs {len(mean) + 1} at the very least and {5 * len(mean)} to be of use (extraction.tokens); "
            f"'center_median' asks for no covariance"
        )
    kept = source.varies(eigenvalues)
    matrix = source.get("eigenvectors")[:, kept] * eigenvalues[kept] ** (-alpha / 2)
    return Preprocess(mean, matrix.astype(np.float32))


def _leading_directions(source: _Source, rank: int | None) -> NDArray[np.float32]:
    available = int(source.varies(source.get("eigenvalues")).sum())
    if rank is not None and rank > available:
        raise UserError(f"{source.what}: rank {rank} is more than the {available} directions the activations vary in")
    vectors = source.get("eigenvectors")
    rank = rank or max(1, min(len(vectors) // 2, available))
    return vectors[:, :rank].astype(np.float32)
