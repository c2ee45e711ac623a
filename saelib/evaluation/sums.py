"""Sums of squared errors and of variance over batches of tokens."""

import math

import numpy as np
from numpy.typing import NDArray

CONSTANT = 1e-13
"""Tokens whose variance is a smaller share of their mean square hold nothing but rounding."""


class ErrorSums:
    """The squared error of reconstructions and the total variance of the tokens, added up over batches in float64."""

    def __init__(self) -> None:
        """Starts without tokens."""
        self.tokens = 0
        self._error = self._squares = 0.0
        self._pilot: NDArray[np.float64] | None = None
        self._drift: NDArray[np.float64] | float = 0.0

    def add(self, x: NDArray[np.floating], x_hat: NDArray[np.floating]) -> NDArray[np.float64]:
        """Adds a batch; both are [tokens, d]. Returns the squared error of each token, [tokens]."""
        if len(x) == 0:
            return np.zeros(0)
        # Sums about a value near the mean, because a large mean would cost the digits of the variance.
        pilot = x.mean(axis=0, dtype=np.float64) if self._pilot is None else self._pilot
        self._pilot = pilot
        errors = squared_lengths(np.subtract(x, x_hat, dtype=np.float64))
        centered = x - pilot
        self._error += float(errors.sum())
        self._squares += float(np.vdot(centered, centered))
        self._drift = self._drift + centered.sum(axis=0)
        self.tokens += len(x)
        return errors

    @property
    def mse(self) -> float:
        """||x - x_hat||^2, summed over dimensions, averaged over tokens; NaN without tokens."""
        return self._error / self.tokens if self.tokens else math.nan

    @property
    def explained_variance(self) -> float:
        """1 - sum ||x - x_hat||^2 / sum ||x - mean||^2; NaN if the tokens are all the same."""
        if self._pilot is None:
            return math.nan
        drift, mean_square = self._drift / self.tokens, self._squares / self.tokens
        variance = mean_square - float(np.vdot(drift, drift))
        scale = mean_square + float(self._pilot @ self._pilot)
        return 1 - self.mse / variance if variance > CONSTANT * scale else math.nan


def squared_lengths(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Computes the squared length of each row, [rows]."""
    return np.einsum("td,td->t", rows, rows, dtype=np.float64)
