"""The space that an SAE reads, the scale of its errors, and the way back to the model's own activations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.activations.rows import ArrayRows, Rows, read_float32
from saelib.devices.copies import to_device
from saelib.errors import UserError
from saelib.evaluation.sums import CONSTANT
from saelib.preprocessing.on_device import DevicePreprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.stats.medians import geometric_median
from saelib.stats.slabs import open_slabs

SCALE_ROWS = 65_536
"""Training rows that a mean and a variance are taken over: the first ones, as rows are shuffled when stored."""
CENTER_ROWS = 4_096
"""Training rows, the first ones, whose geometric median is the center that a token's own error is measured against."""


class PreparedRows:
    """Rows as an SAE reads them, as `saelib.activations.rows.Rows`."""

    def __init__(self, rows: Rows, preprocess: Preprocessing) -> None:
        """`rows`: [tokens, d_in] -> [tokens, d_out]."""
        self.name = rows.name
        self.shape = (rows.shape[0], preprocess.d_out)
        self.block_rows = rows.block_rows
        self.offset: NDArray[np.float32] | None = None
        self._rows, self._preprocess = rows, preprocess

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows `start` to `stop`: float32 [stop - start, d_out]."""
        return self._preprocess.apply(self._rows.block(start, stop), self._rows.offset)


@dataclass(frozen=True, eq=False)
class Scale:
    """Scale of errors: mean and total variance of training rows."""

    mean: NDArray[np.float64]
    """[d]"""
    variance: float
    """||sigma||^2: the variances of all dimensions, summed."""


def measure_scale(rows: Rows) -> Scale:
    """Mean and variance over the first rows. Raises `UserError` if they are constant or not finite."""
    tokens = min(rows.shape[0], SCALE_ROWS)
    # About a value near the mean, so that a large mean costs no digits of the variance.
    pilot = read_float32(rows, 0, 1)[0].astype(np.float64)
    total, squares = np.zeros(rows.shape[1]), 0.0
    for start in range(0, tokens, rows.block_rows):
        x = read_float32(rows, start, min(start + rows.block_rows, tokens)) - pilot
        total += x.sum(axis=0)
        squares += float(np.square(x).sum())
    drift = total / tokens
    mean, variance = pilot + drift, squares / tokens - float(drift @ drift)
    if not CONSTANT * float(mean @ mean) < variance < np.inf:
        raise UserError(
            f"{rows.name}: the activations are constant or not finite: there is no variance to measure errors by"
        )
    return Scale(mean, variance)


def typical_center(rows: Rows) -> NDArray[np.float64]:
    """Center of typical tokens, [d]: the geometric median of the first rows, which massive tokens cannot drag away."""
    slabs = open_slabs(ArrayRows(_exact(rows, 0, min(rows.shape[0], CENTER_ROWS)), rows.name))
    median, _ = geometric_median(slabs, np.median(slabs.sample, axis=0), None, workers=1)
    return slabs.base.astype(np.float64) + median / slabs.scale


@dataclass(frozen=True)
class Sample:
    """Some tokens, twice."""

    x: Tensor
    """The tokens as the SAE reads them: float32 [tokens, d_out], on the device."""
    activations: NDArray[np.float64] | Tensor | None
    """[tokens, d_in] in float64, as the model has them: a tensor if `x` is on a GPU. None if `x` is the same."""

    def where(self, marked: NDArray[np.bool_]) -> "Sample":
        """Some of the tokens; `marked` is [tokens]."""
        chosen = to_device(np.flatnonzero(marked), str(self.x.device))
        x = self.x.index_select(0, chosen)
        if isinstance(self.activations, Tensor):
            return Sample(x, self.activations.index_select(0, chosen))
        return Sample(x, None if self.activations is None else self.activations[marked])


class Space:
    """A preprocessing fitted to one layer: the space an SAE is trained in, and the one it is judged in.

    SAEs are judged by their errors in the model's own activations, so that variants can be compared: a token's norm
    and mean are given back to its reconstruction, and whitening is undone.
    """

    def __init__(self, preprocess: Preprocessing, train: Rows, device: str) -> None:
        """`train`: the rows that the SAE will be trained on, as stored."""
        self.preprocess, bias = preprocess.without_center()
        self.device = device
        self.initial_bias = torch.from_numpy(bias.astype(np.float32))
        """[d_out]; the start of b_dec."""
        self.judged = measure_scale(train)
        self.center = typical_center(train)
        """[d_in]; each token's own error is measured relative to its distance from here."""
        self.same = self.preprocess.scale is None and self.preprocess.token_norm == "none"
        """True if the two spaces are one."""
        self.on_device = None if device == "cpu" else DevicePreprocessing(self.preprocess, device)
        """The preprocessing for rows that lie on a GPU; None if SAEs are on the CPU, where numpy computes it."""
        self.trained = self.judged if self.same else measure_scale(self.prepare(train))

    @property
    def mean(self) -> NDArray[np.float64] | None:
        """The mean that b_dec and the latents have to capture, [d_out]; None if whitening has taken it away."""
        return self.trained.mean if self.preprocess.scale is None and self.trained.mean.any() else None

    def prepare(self, rows: Rows) -> Rows:
        """Rows as the SAE reads them."""
        return rows if self.same else PreparedRows(rows, self.preprocess)

    def reader(self, offset: NDArray[np.float32] | None) -> Callable[[Tensor], Tensor]:
        """A function that makes of stored rows on a GPU, whose values lack `offset`, what the SAE reads."""
        preprocess = self.on_device
        assert preprocess is not None
        added = None if offset is None else to_device(offset, self.device)

        def read(rows: Tensor) -> Tensor:
            if not self.same:
                return preprocess.apply(rows, added)
            return rows.float() if added is None else rows.float().add_(added)

        return read

    def samples(self, rows: Rows, stop: int, at_a_time: int) -> Iterator[Sample]:
        """The first `stop` rows, at most `at_a_time` of them at once."""
        step = min(rows.block_rows, at_a_time)
        starts = range(0, stop, step)
        if self.on_device is not None:
            read = self.reader(rows.offset)
            for start in starts:
                stored = to_device(np.array(rows.block(start, min(start + step, stop))), self.device)
                yield Sample(read(stored), None if self.same else self._exact_on_device(stored, rows.offset))
            return
        prepared = self.prepare(rows)
        for start in starts:
            end = min(start + step, stop)
            x = torch.from_numpy(read_float32(prepared, start, end)).to(self.device)
            yield Sample(x, None if self.same else _exact(rows, start, end))

    def _exact_on_device(self, stored: Tensor, offset: NDArray[np.float32] | None) -> Tensor:
        values = stored.double()
        return values if offset is None else values.add_(torch.from_numpy(offset).to(self.device))


def _exact(rows: Rows, start: int, stop: int) -> NDArray[np.float64]:
    values = rows.block(start, stop).astype(np.float64)
    return values if rows.offset is None else values + rows.offset
