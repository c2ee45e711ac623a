"""Find the tokens near one of the centers that share a matrix product.

Preprocessings that only subtract a center share one product, of the tokens minus a common base: the pre-activations of
each are `(x - base) W + (base - center) W`. If a token lies at the center, or much nearer to it than to the base, the
two terms cancel and leave rounding errors: noise above zero would count as positive and be selected. Such tokens (zeros
under `raw`, or a padding vector that is also the median) are preprocessed and multiplied on their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saelib.init_death.kernels import AT_CENTER, SHARED
from saelib.preprocessing.transform import Preprocessing

NEAR = 2.0**-6
"""A token nearer than this share of the terms that cancel gets its own product. Farther out, float32 keeps 17 bits."""


@dataclass(frozen=True)
class Near:
    """The tokens of a block that have values of their own, and under which variants, in the order of the tokens."""

    values: NDArray[np.float32]
    """[n, d_in], preprocessed by the variant alone."""
    tokens: NDArray[np.intp]
    """[n], increasing."""
    row: NDArray[np.int32]
    """[variants, tokens of the block]; a row of `values`, `SHARED` or `AT_CENTER`, as in `kernels.Own`."""

    def part(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Gives the rows of `values` that tokens `start` to `stop` need, and `row` renumbered to these rows."""
        first, last = np.searchsorted(self.tokens, [start, stop])
        row = self.row[:, start:stop]
        return self.values[first:last], np.where(row >= 0, row - np.int32(first), row)

    def at(self, tokens: NDArray[np.intp]) -> "Near":
        """Gives the same for some tokens of the block, in increasing order."""
        row = self.row[:, tokens]
        kept = np.isin(self.tokens, tokens)
        places = np.cumsum(kept) - 1
        renumbered = np.where(row >= 0, places[np.maximum(row, 0)] if len(places) else row, row).astype(np.int32)
        return Near(self.values[kept], np.searchsorted(tokens, self.tokens[kept]), renumbered)


def nothing_near(variants: int, x: NDArray[np.float32]) -> Near:
    """Make a `Near` for an `x` that is precise for every token."""
    row = np.full((variants, len(x)), SHARED, np.int32)
    return Near(np.empty((0, x.shape[1]), np.float32), np.empty(0, np.intp), row)


def find_near(
    x: NDArray[np.float32],
    deltas: NDArray[np.float64],
    preprocessings: Sequence[Preprocessing],
    block: NDArray[np.floating],
    offset: NDArray[np.float32] | None,
) -> Near:
    """Find the tokens near a center, and preprocess them with that center alone.

    Args:
        x: [tokens, d_in]; tokens minus the base.
        deltas: [variants, d_in]; base minus center.
        preprocessings: one for each variant; each only subtracts its center.
        block: [tokens, d_in]; tokens as they are stored, without the offset.
        offset: [d_in], or None.
    """
    found = nothing_near(len(deltas), x)
    if not deltas.any():  # there are no terms that could cancel
        return found
    near = _is_near(x, deltas)
    if not near.any():
        return found
    tokens, variants = np.nonzero(near.T)
    values = np.empty((len(tokens), x.shape[1]), np.float32)
    for variant, preprocess in enumerate(preprocessings):
        of_variant = variants == variant
        values[of_variant] = preprocess.apply(block[tokens[of_variant]], offset)
    apart = values.any(axis=1)
    found.row[variants, tokens] = AT_CENTER
    found.row[variants[apart], tokens[apart]] = np.arange(apart.sum(), dtype=np.int32)
    return Near(values[apart], tokens[apart], found.row)


def _is_near(x: NDArray[np.float32], deltas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Compare squared distances to the centers: [variants, tokens]."""
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow compares as infinite, hence as not near
        lengths = np.einsum("td,td->t", x, x)
        shifts = np.einsum("vd,vd->v", deltas, deltas)[:, None]
        distances = lengths + 2 * (deltas.astype(np.float32) @ x.T) + shifts
        return distances <= NEAR**2 * (np.sqrt(lengths) + np.sqrt(shifts)) ** 2
