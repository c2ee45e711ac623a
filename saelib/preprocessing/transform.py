"""A fitted preprocessing, x -> (f(x) - center) @ scale, and its inverse."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from saelib.stats.layer_stats import LN_EPS

AT_CENTER = 2.0**-22
"""A token this close to a center, as a share of the two lengths that were subtracted, counts as lying on it: float32
rounds an activation by up to a quarter of that share, so the direction of the difference is nothing but rounding."""


TokenNorm = Literal["none", "layernorm", "sqrt_d"]
"""The first step for each token: nothing; `layer_norm`; or x * sqrt(d_in) / ||x||, which keeps tokens of zeros."""


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """A preprocessing that is fitted to a layer. Build it with `make_preprocessing`."""

    center: NDArray[np.float64]
    """[d_in]; it is subtracted after the token norm and before the scale."""
    scale: NDArray[np.float32] | None = None
    """None; or [d_in], one factor for each dimension; or [d_in, d_out], a matrix with orthogonal columns, which
    multiplies from the right."""
    token_norm: TokenNorm = "none"
    """The first step for each token."""
    subspace: NDArray[np.float32] | None = None
    """None; or [d_in, rank], orthonormal columns that span an SAE's initial directions. `apply` does not use it."""

    def __repr__(self) -> str:
        """Shows the steps and the widths, not the arrays."""
        center = "a center" if self.center.any() else "no center"
        scale = "no scale" if self.scale is None else f"a {'matrix' if self.scale.ndim == 2 else 'vector'} as scale"
        return f"Preprocessing({self.d_in:,} -> {self.d_out:,}, token norm {self.token_norm}, {center}, {scale})"

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.center.shape[0]

    @property
    def d_out(self) -> int:
        """Width of the output: smaller than `d_in` if whitening drops empty directions."""
        return self.d_in if self.scale is None else self.scale.shape[-1]

    @cached_property
    def inverse(self) -> NDArray[np.float32] | None:
        """Undoes `scale`: None, [d_in] or [d_out, d_in]; dropped directions come back as 0."""
        if self.scale is None:
            return None
        squares = np.square(self.scale, dtype=np.float64)
        # Orthogonal columns: dividing them by their squared norms gives the pseudo-inverse.
        norms = squares.sum(axis=0) if squares.ndim == 2 else squares
        return np.divide(self.scale, norms, out=np.zeros(self.scale.shape), where=norms > 0).T.astype(np.float32)

    def apply(self, x: NDArray[np.floating], offset: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Preprocesses activations `x + offset`: [tokens, d_in] -> a new float32 array [tokens, d_out].

        `offset` [d_in] (None: zero) is kept apart as in `saelib.activations.rows.Rows`: it cancels against the center
        before anything is rounded to float32, so a large mean costs no precision. A token at the center gives exact
        zeros, and not rounding errors, which would point in a random direction.
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
        """Maps outputs of `apply` back to activations: `restore(apply(x), x)` is x, except for dropped directions.

        Args:
            x_hat: [tokens, d_out], such as reconstructions of `apply(x)`.
            x: [tokens, d_in], the activations; they provide each token's norm and mean, which `apply` removed.
        """
        if self.inverse is not None:
            x_hat = x_hat * self.inverse if self.inverse.ndim == 1 else x_hat @ self.inverse
        restored = x_hat + self.center
        if self.token_norm != "none":
            shift, size = token_shift_and_size(x, self.token_norm)
            restored = restored * size + shift
        return restored

    def without_center(self) -> tuple[Self, NDArray[np.float64]]:
        """Gives the preprocessing for an SAE's rows, and the initial b_dec [d_out].

        Without a scale, the center becomes the initial b_dec, which training may move (paper, section 3.1). With a
        scale, the rows are centered themselves, and b_dec starts at 0.
        """
        if self.scale is None:
            return replace(self, center=np.zeros(self.d_in)), self.center
        return self, np.zeros(self.d_out)


def _settle(difference: NDArray[np.float64], subtracted: NDArray[np.float64]) -> None:
    """Sets rows to zero that are nothing but rounding: tiny compared with the lengths [tokens] that were subtracted."""
    left = _lengths(difference)
    difference[(left <= AT_CENTER * subtracted) & np.isfinite(left)] = 0


def _lengths(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Computes lengths, [tokens, d] -> [tokens]; infinite if the square overflows."""
    with np.errstate(over="ignore"):
        return np.sqrt(np.einsum("td,td->t", x, x, dtype=np.float64))


def token_shift_and_size(
    x: NDArray[np.floating], token_norm: TokenNorm
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes a token norm's shift and size, x -> (x - shift) / size, both [tokens, 1]; `x` is [tokens, d_in]."""
    mean = x.mean(axis=1, dtype=np.float64, keepdims=True) if token_norm == "layernorm" else np.zeros((len(x), 1))
    centered = x - mean
    squares = np.einsum("td,td->t", centered, centered)[:, None] / x.shape[1]
    return mean, np.sqrt(squares + (LN_EPS if token_norm == "layernorm" else 0))


def layer_norm(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Applies LayerNorm without affine parameters to x [tokens, d_in]: (x - mean_j x_j) / sqrt(var_j x_j + 1e-5)."""
    shift, size = token_shift_and_size(x, "layernorm")
    return (x - shift) / size
