"""The coordinates an SAE is trained in, and the way back to the model's own activations."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.errors import UserError
from saelib.preprocess import Preprocess, layer_norm
from saelib.rows import Rows, read_float32

SCALE_ROWS = 65_536
"""Training rows that a mean and a variance are taken over: the first ones, as rows are shuffled when stored."""
CONSTANT = 1e-13
"""Rows whose variance is a smaller share of their mean square hold nothing but rounding."""
SAMPLE_ROWS = 2_048
"""Rows measured at once, which bounds the memory of dense pre-activations."""


class PreparedRows:
    """Rows in the coordinates an SAE is trained in, as `saelib.rows.Rows`.

    A preprocessing that only centres leaves the rows as they are (or LayerNormed): its centre becomes the value
    that b_dec starts from, and training may move it (paper, section 3.1).
    """

    def __init__(self, rows: Rows, preprocess: Preprocess) -> None:
        """`rows`: [tokens, d_in] -> [tokens, d_out]."""
        self.name = rows.name
        self.shape = (rows.shape[0], preprocess.d_out)
        self.block_rows = rows.block_rows
        self.offset: NDArray[np.float32] | None = None
        self._rows, self._preprocess = rows, preprocess

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Rows `start` to `stop`: float32 [stop - start, d_out]."""
        if self._preprocess.scale is not None:
            return self._preprocess.apply(self._rows.block(start, stop), self._rows.offset)
        values = read_float32(self._rows, start, stop)
        return layer_norm(values) if self._preprocess.token_norm == "layernorm" else values


@dataclass(frozen=True, eq=False)
class Scale:
    """What errors are measured against: mean and total variance of training rows."""

    mean: Tensor
    """[d]"""
    variance: float
    """||sigma||^2: the variances of all dimensions, summed."""


def measure_scale(rows: Rows, device: str) -> Scale:
    """Mean and variance over the first rows. Raises `UserError` where they are constant or not finite."""
    tokens = min(rows.shape[0], SCALE_ROWS)
    total, squares = np.zeros(rows.shape[1]), 0.0
    for start in range(0, tokens, rows.block_rows):
        x = read_float32(rows, start, min(start + rows.block_rows, tokens)).astype(np.float64)
        total += x.sum(axis=0)
        squares += float(np.square(x).sum())
    mean = total / tokens
    variance = squares / tokens - float(mean @ mean)
    if not CONSTANT * squares / tokens < variance < np.inf:
        raise UserError(f"{rows.name}: the training activations are constant or not finite; nothing can be learnt")
    return Scale(torch.from_numpy(mean.astype(np.float32)).to(device), variance)


class Space:
    """A preprocessing fitted to one layer: the space an SAE is trained in, and the one it is judged in.

    Errors after a whitening are not those of the activations, so they are mapped back before SAEs are compared.
    From a LayerNorm no map leads back: there, the LayerNormed tokens stand for the activations.
    """

    def __init__(self, preprocess: Preprocess, train: Rows, device: str) -> None:
        """`train`: the rows that the SAE will be trained on, as stored."""
        self.preprocess, self.device = preprocess, device
        self.whitens = preprocess.scale is not None
        self.trained = measure_scale(self.prepare(train), device)
        self.judged = measure_scale(train, device) if self.whitens else self.trained
        self._inverse = torch.from_numpy(_pseudo_inverse(preprocess)).to(device)
        self._center = torch.from_numpy(preprocess.center.astype(np.float32)).to(device)

    def prepare(self, rows: Rows) -> Rows:
        """Rows as the SAE sees them."""
        return PreparedRows(rows, self.preprocess)

    def initial_bias(self) -> Tensor:
        """Where b_dec starts: the centre, or 0 where the centre is taken off the rows themselves."""
        return torch.zeros_like(self.trained.mean) if self.whitens else self._center

    def restore(self, x: Tensor) -> Tensor:
        """From a whitening space back to the model's activations: [tokens, d_out] -> [tokens, d_in]."""
        scaled = x * self._inverse if self._inverse.ndim == 1 else x @ self._inverse
        return scaled + self._center

    def samples(self, rows: Rows, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The first `stop` rows in pieces: as the SAE sees them, and as it is judged."""
        prepared = self.prepare(rows)
        for start in range(0, stop, rows.block_rows):
            end = min(start + rows.block_rows, stop)
            x = torch.from_numpy(read_float32(prepared, start, end)).to(self.device)
            judged = torch.from_numpy(read_float32(rows, start, end)).to(self.device) if self.whitens else x
            yield from zip(x.split(SAMPLE_ROWS), judged.split(SAMPLE_ROWS), strict=True)


def _pseudo_inverse(preprocess: Preprocess) -> NDArray[np.float32]:
    """Undoes `preprocess.scale`, [d] or [d_out, d_in]; directions that it drops come back as 0."""
    if preprocess.scale is None:
        return np.ones(preprocess.d_in, np.float32)
    squares = np.square(preprocess.scale).sum(axis=0) if preprocess.scale.ndim == 2 else np.square(preprocess.scale)
    # The columns of a whitening matrix are orthogonal, so dividing them by their squared norms inverts it.
    return np.divide(preprocess.scale, squares, out=np.zeros_like(preprocess.scale), where=squares > 0).T.copy()
