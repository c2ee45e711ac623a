"""Rounding to float16 after subtracting an offset: chooses the offset, and tells which rows are kept well enough.

float16 has 11 significant bits, so its error is proportional to `x - offset`, whatever the size of the row x itself.
But later computations divide by sizes of x: LayerNorm by the row's deviation from its own mean, unit norm by its
length, z-scoring and whitening by the deviation of a dimension. Each row is therefore compared with what readers will
get back.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

ROW_ERROR = 2**-9
"""The largest error of a row that float16 may cause, as a share of ||x - mean_j x_j||."""
DIMENSION_ERROR = 2**-7
"""The largest standard deviation of a dimension's errors, as a share of that of its values."""
_SAMPLE_ROWS = 4096
_CHECKED = 4  # the errors of dimensions are measured on every fourth row
_ENOUGH_ROWS = 256


@dataclass(frozen=True, eq=False)
class Rounded:
    """Some rows in float16, and the errors that this causes."""

    halves: NDArray[np.float16]
    """[tokens, d_in]: x - offset."""
    error: NDArray[np.float32]
    """[tokens, d_in]: what readers get minus the original."""
    share: NDArray[np.float64]
    """[tokens]: the length of the error over ||x - mean_j x_j||; 0 for rows that come back exactly."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """[tokens]: whether the error of the row is small enough."""
        return self.share <= ROW_ERROR


def choose_offset(acts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Chooses the offset [d_in] for a layer whose first rows are `acts` [tokens, d_in].

    It is the median of each dimension over the rows that are not all zeros, because massive tokens do not drag a
    median. It is 0 for dimensions whose values lie around 0 anyway. Its values are exact in float16, so that zeros come
    back as zeros.
    """
    rows = acts[acts.any(axis=1)]
    rows = rows[:: -(-len(rows) // _SAMPLE_ROWS) or 1]
    if not len(rows):
        return np.zeros(acts.shape[1], np.float32)
    with np.errstate(over="ignore"):
        median = np.median(rows, axis=0)
        spread = np.median(np.abs(rows - median), axis=0)
        offset = np.where(np.abs(median) > spread, median, 0).astype(np.float32)
        half = offset.astype(np.float16).astype(np.float32)
    return np.where(np.isfinite(half), half, offset)


def round_rows(acts: NDArray[np.float32], offset: NDArray[np.float32]) -> Rounded:
    """Rounds `acts - offset` to float16, for a store and for a stream alike; `acts` [tokens, d_in] must be finite."""
    import torch  # its conversions are several times faster than numpy's

    with np.errstate(over="ignore", invalid="ignore"):
        halves = torch.from_numpy(acts - offset).half()
        error = halves.float().numpy()
        error += offset
        error -= acts
        deviation = _squares(acts - acts.mean(axis=1, keepdims=True))
        squares = _squares(error)
        share = np.sqrt(np.divide(squares, deviation, out=np.full(len(acts), np.inf), where=deviation > 0))
    share[squares == 0] = 0
    return Rounded(halves.numpy(), error, np.nan_to_num(share, nan=np.inf, posinf=np.inf))


def round_on_device(acts: "Tensor", offset: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Rounds as `round_rows` does, on torch's device: float16 [tokens, d_in] and bool [tokens], which rows are kept.

    Sums of squares are float64 here, so a row whose error is at the very limit may be judged differently.
    """
    halves = (acts - offset).half()
    squares = (halves.float() + offset - acts).double().square().sum(1)
    deviation = (acts - acts.mean(1, keepdim=True)).double().square().sum(1)
    return halves, (squares == 0) | (squares <= ROW_ERROR**2 * deviation)


def _squares(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the squared lengths [tokens], computed in float64 if float32 overflows or underflows."""
    with np.errstate(over="ignore"):
        squares = np.vecdot(rows, rows).astype(np.float64)
    odd = ~((squares > 1e-25) & (squares < 1e35))
    if odd.any():
        squares[odd] = np.einsum("ij,ij->i", rows[odd], rows[odd], dtype=np.float64)
    return squares


def lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the L2 norms [tokens], at most float32's largest value."""
    return np.minimum(np.sqrt(_squares(rows)), np.finfo(np.float32).max).astype(np.float32)


class Dimensions:
    """The errors of each dimension compared with its own spread, over the rows of a split so far."""

    def __init__(self, d_in: int) -> None:
        """Starts without any rows."""
        self._rows = 0
        self._sums = np.zeros((2, d_in))
        self._squares = np.zeros((2, d_in))

    def add(self, rounded: Rounded) -> None:
        """Adds a quarter of the rows."""
        for place, values in enumerate((rounded.halves, rounded.error)):
            checked = values[::_CHECKED].astype(np.float64)
            self._sums[place] += checked.sum(axis=0)
            self._squares[place] += np.einsum("ij,ij->j", checked, checked)
        self._rows += len(rounded.halves[::_CHECKED])

    def worst(self) -> tuple[int, float]:
        """Returns the dimension whose errors are largest relative to its own deviation, and the ratio.

        The ratio is 0 if there are too few rows.
        """
        if self._rows < _ENOUGH_ROWS:
            return 0, 0.0
        variance, noise = np.maximum(self._squares / self._rows - (self._sums / self._rows) ** 2, 0)
        # A constant error is not noise; the variance computed for it is only the rounding of these sums.
        noise[noise < 1e-9 * self._squares[1] / self._rows] = 0
        share = np.sqrt(np.divide(noise, variance, out=np.where(noise > 0, np.inf, 0), where=variance > 0))
        return int(share.argmax()), float(share.max())


def why_not(rounded: Rounded, dimensions: Dimensions, acts: NDArray[np.float32]) -> str | None:
    """Says in one sentence why rows cannot be float16, or returns None if they can and adds them to `dimensions`."""
    if not rounded.kept.all():
        worst = int(rounded.share.argmax())
        return _why_not_row(acts[worst], rounded.halves[worst], float(rounded.share[worst]))
    dimensions.add(rounded)
    dimension, share = dimensions.worst()
    if share > DIMENSION_ERROR:
        return f"float16 would add noise of {100 * share:.2g} % of its standard deviation to dimension {dimension}"
    return None


def _why_not_row(row: NDArray[np.float32], halves: NDArray[np.float16], share: float) -> str:
    largest = np.abs(row).max()
    if not np.isfinite(halves).all():
        return f"the values of a row, up to {largest:.3g}, are too large for float16"
    if np.isinf(share):
        return f"float16 would make noise of a row whose values are all {row[0]:.3g}"
    much = f"{100 * share:.2g} % of" if share < 1 else f"{share:.3g} times"
    return (
        f"float16 would change a row, of values up to {largest:.3g}, by {much} its deviation from its own mean, which "
        f"LayerNorm divides by"
    )
