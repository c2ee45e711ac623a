"""Tokens that lie near one of the centers that share a matrix product.

Preprocessings that only subtract a center share the product of the tokens about one base: the pre-activations of each
are `(x - base) W + (base - center) W`. Where a token lies at the center, or near it compared with the base, the two
terms cancel and leave rounding errors: noise above zero would count as positive and be selected. Such tokens, zeros for
`raw` or a padding vector that is also the median, are preprocessed and multiplied on their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saelib.init_death.kernels import AT_CENTER, SHARED
from saelib.preprocessing.transform import Preprocessing

NEAR = 2.0**-6
"""Nearer than this share of what cancels, a token gets a product of its own. Above it float32 keeps 17 bits."""


@dataclass(frozen=True)
class Near:
    """Which tokens of a block have values of their own under which variant, in the order of the tokens."""

    values: NDArray[np.float32]
    """[n, d_in]; preprocessed by the variant itself."""
    tokens: NDArray[np.intp]
    """[n], increasing."""
    row: NDArray[np.int32]
    """[variants, tokens of the block]; a row of `values`, `SHARED` or `AT_CENTER`, as in `kernels.Own`."""

    def part(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The rows of `values` that tokens `start` to `stop` need, and their `row` into just these."""
        first, last = np.searchsorted(self.tokens, [start, stop])
        row = self.row[:, start:stop]
        return self.values[first:last], np.where(row >= 0, row - np.int32(first), row)


def nothing_near(variants: int, x: NDArray[np.float32]) -> Near:
    """Every token of `x` is precise as it is."""
    row = np.full((variants, len(x)), SHARED, np.int32)
    return Near(np.empty((0, x.shape[1]), np.float32), np.empty(0, np.intp), row)


def find_near(
    x: NDArray[np.float32],
    deltas: NDArray[np.float64],
    preprocessings: Sequence[Preprocessing],
    block: NDArray[np.floating],
    offset: NDArray[np.float32] | None,
) -> Near:
    """Finds the tokens near a center and preprocesses them with that center alone.

    Args:
        x: [tokens, d_in]; tokens about the base.
        deltas: [variants, d_in]; base less center.
        preprocessings: One for each variant, which only subtracts its center.
        block: [tokens, d_in]; the tokens as stored, without the offset.
        offset: [d_in], or None.
    """
    near = _is_near(x, deltas)
    found = nothing_near(len(deltas), x)
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
    """[variants, tokens], by the squared distances to the centers."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is compared as infinite, and so not near
        lengths = np.einsum("td,td->t", x, x)
        shifts = np.einsum("vd,vd->v", deltas, deltas)[:, None]
        distances = lengths + 2 * (deltas.astype(np.float32) @ x.T) + shifts
        return distances <= NEAR**2 * (np.sqrt(lengths) + np.sqrt(shifts)) ** 2
