"""Core figures of reconstruction and sparsity by the names of SAEBench, added up over batches."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.evaluation.encode import encode_blocks
from saelib.evaluation.inputs import Codes, Matrix, read_codes, read_matrix
from saelib.evaluation.sums import ErrorSums, squared_lengths

MASSIVE = 10.0
"""Times the median length: a token that is longer is called massive."""
HALF_DECADES = tuple(10 ** (power / 2) for power in range(-12, 1))
"""Edges of the firing-rate histogram, from 1e-6 to 1."""


class FiringHistogram(NamedTuple):
    """Numbers of latents by firing rate."""

    dead: int
    """Latents that fired for no token."""
    counts: NDArray[np.int64]
    """[bins]: latents whose rate is at least one edge and below the next; the last bin includes its upper edge. The
    first bin also holds rates below its lower edge."""
    edges: NDArray[np.float64]
    """[bins + 1]"""


@dataclass(frozen=True, eq=False)
class CoreMetrics:
    """Figures of an SAE over some tokens, by the names of SAEBench. They do not depend on the size of batches."""

    tokens: int
    explained_variance: float
    """1 - sum ||x - x_hat||^2 / sum ||x - mean||^2, about the mean of these tokens; NaN if they are all the same."""
    mse: float
    """||x - x_hat||^2, summed over dimensions, averaged over tokens."""
    cossim: float
    """Mean cosine of x and x_hat. Tokens of length 0 are left out of this and of `l2_ratio`."""
    l2_ratio: float
    """Mean of ||x_hat|| / ||x||; below 1 if reconstructions shrink."""
    relative_reconstruction_bias: float
    """Mean of ||x_hat||^2 over the mean of x . x_hat; 1 if reconstructions are unbiased, below 1 if they shrink."""
    l0: float
    """Latents that fire (with a value other than 0) for a token, on average."""
    freq_over_1_percent: float
    """Share of latents that fire for more than 1 % of the tokens."""
    firing_rates: NDArray[np.float64]
    """[latents]: share of the tokens for which each latent fires."""

    def histogram(self) -> FiringHistogram:
        """Counts latents by firing rate, in half decades from 1e-6 to 1; dead latents are counted apart."""
        alive = self.firing_rates[self.firing_rates > 0]
        counts, edges = np.histogram(alive.clip(HALF_DECADES[0]), HALF_DECADES)
        return FiringHistogram(len(self.firing_rates) - len(alive), counts.astype(np.int64), edges)

    def __repr__(self) -> str:
        """Shows the figures and not the rate of each latent."""
        figures = {name: value for name, value in vars(self).items() if name not in ("tokens", "firing_rates")}
        return f"CoreMetrics({self.tokens:,} tokens, {', '.join(f'{n}={v:.4g}' for n, v in figures.items())})"


class CoreReport(NamedTuple):
    """Core figures over all tokens, and over those of ordinary length."""

    all: CoreMetrics
    typical: CoreMetrics
    """Massive tokens left out: those longer than `massive_norm`, such as attention sinks. A few of them can decide
    every figure over all tokens, and no figure here."""
    massive_norm: float
    """The length above which a token is called massive."""


class CoreMeter:
    """Adds up core figures over batches, in memory of one number per latent and dimension."""

    def __init__(self, massive_norm: float | None = None) -> None:
        """Starts without tokens; `massive_norm` is by default 10 times the median length of the first batch."""
        self._massive_norm = massive_norm
        self._sizes: tuple[int, int] | None = None
        self._all, self._typical = _Sums(), _Sums()

    def add(self, activations: Matrix, reconstructions: Matrix, codes: Codes) -> None:
        """Adds a batch of tokens.

        Args:
            activations: The model's activations, [tokens, d].
            reconstructions: The SAE's reconstructions of them, [tokens, d].
            codes: Values of its latents, [tokens, latents], dense or sparse.

        Raises:
            UserError: If sizes do not fit, or if a value is NaN or infinite.
        """
        x, x_hat = read_matrix(activations, "activations"), read_matrix(reconstructions, "reconstructions")
        read = read_codes(codes, "codes")
        if x.shape != x_hat.shape or len(x) != read.shape[0]:
            raise UserError(
                f"activations {list(x.shape)}, reconstructions {list(x_hat.shape)}, codes {list(read.shape)}: should "
                "be [tokens, d] twice, and [tokens, latents]"
            )
        sizes = x.shape[1], read.shape[1]
        if self._sizes not in (None, sizes):
            raise UserError(f"d and latents are {sizes}; should be {self._sizes}, as in the batches before")
        self._sizes = sizes
        lengths = np.sqrt(squared_lengths(x))
        if self._massive_norm is None:
            self._massive_norm = MASSIVE * float(np.median(lengths)) or math.inf
        typical = lengths <= self._massive_norm
        self._all.add(x, x_hat, read)
        self._typical.add(*((x, x_hat, read) if typical.all() else (x[typical], x_hat[typical], read[typical])))

    def metrics(self) -> CoreReport:
        """Computes the figures over all tokens so far."""
        if self._massive_norm is None or not self._all.errors.tokens:
            raise UserError("core metrics: there are no tokens")
        return CoreReport(self._all.metrics(), self._typical.metrics(), self._massive_norm)


def core_metrics(activations: Matrix, sae: Any, tokens: int | None = None) -> CoreReport:
    """Measures an SAE by SAEBench's core figures, over all tokens and over those of ordinary length.

    Use rows that the SAE was not trained on. `CoreMeter` does the same for batches that you make yourself.

    Args:
        activations: An array, a tensor, opened activations, or a path, [tokens, d]; read block by block.
        sae: An SAE from `saelib.load_sae`, or any object whose `encode` makes codes of a torch tensor and whose
            `decode` turns them back, such as SAELens' and SAEBench's.
        tokens: Number of rows to measure on, from the first. Without it, all rows.

    Raises:
        UserError: If the widths differ, or if a value is NaN or infinite.

    Example:
        >>> class Half:
        ...     def encode(self, x): return x.relu()
        ...     def decode(self, z): return z / 2
        >>> acts = np.random.default_rng(0).exponential(size=(1000, 8))
        >>> found = evaluation.core_metrics(acts, Half())
        >>> round(found.all.l2_ratio, 3), round(found.all.cossim, 3), found.all.l0, found.all.freq_over_1_percent
        (0.5, 1.0, 8.0, 1.0)
    """
    meter = CoreMeter()
    for block in encode_blocks(activations, sae, tokens):
        meter.add(*block)
    return meter.metrics()


class _Sums:
    """Sums over some tokens."""

    def __init__(self) -> None:
        self.errors = ErrorSums()
        self._fires: NDArray[np.int64] | int = 0
        self._squares_out = self._dot = self._cosines = self._ratios = 0.0
        self._directed = 0

    def add(self, x: NDArray[np.floating], x_hat: NDArray[np.floating], codes: Any) -> None:
        """Adds tokens [tokens, d] and their codes, a `csr_array` [tokens, latents] without stored zeros."""
        self.errors.add(x, x_hat)
        self._fires = self._fires + np.bincount(codes.indices, minlength=codes.shape[1])
        squares_out, dot = squared_lengths(x_hat), np.einsum("td,td->t", x, x_hat, dtype=np.float64)
        self._squares_out += float(squares_out.sum())
        self._dot += float(dot.sum())
        lengths, lengths_out = np.sqrt(squared_lengths(x)), np.sqrt(squares_out)
        directed = lengths > 0
        self._directed += int(directed.sum())
        self._ratios += float((lengths_out[directed] / lengths[directed]).sum())
        both = directed & (lengths_out > 0)
        self._cosines += float((dot[both] / (lengths[both] * lengths_out[both])).sum())

    def metrics(self) -> CoreMetrics:
        """Computes the figures of these tokens."""
        tokens, directed = self.errors.tokens, self._directed
        rates = np.asarray(self._fires) / max(tokens, 1)
        return CoreMetrics(
            tokens=tokens,
            explained_variance=self.errors.explained_variance,
            mse=self.errors.mse,
            cossim=self._cosines / directed if directed else math.nan,
            l2_ratio=self._ratios / directed if directed else math.nan,
            relative_reconstruction_bias=self._squares_out / self._dot if self._dot else math.nan,
            l0=float(rates.sum()),
            freq_over_1_percent=float((rates > 0.01).mean()),
            firing_rates=rates,
        )
