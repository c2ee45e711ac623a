"""Pre-activations of tokens, computed in blocks small enough to be searched while they are in cache."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.cpu import why_unsupported

BLAS_VALUES = 2**22
"""Pre-activations that BLAS computes at a time: 16 MB, enough tokens for its full speed (measured)."""


class Product(Protocol):
    """The map x -> x W_enc."""

    def blocks(self, x: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yields, for x [tokens, d_in], each block's first token and its products [tokens of the block, d_sae].

        The next block overwrites the array.
        """
        ...


def make_product(w_enc: NDArray[np.float32]) -> Product:
    """Choose a product for `w_enc` [d_in, d_sae]: the training kernels if this CPU runs them, otherwise BLAS."""
    return KernelProduct(w_enc) if why_unsupported() is None else BlasProduct(w_enc)


class BlasProduct:
    """Multiplies by numpy."""

    def __init__(self, w_enc: NDArray[np.float32]) -> None:
        """Takes `w_enc` [d_in, d_sae]."""
        self._w_enc = w_enc
        self._rows = max(1, BLAS_VALUES // w_enc.shape[1])

    def blocks(self, x: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yields blocks of products, see `Product`."""
        hidden = np.empty((min(len(x), self._rows), self._w_enc.shape[1]), np.float32)
        for start in range(0, len(x), self._rows):
            part = x[start : start + self._rows]
            yield start, np.matmul(part, self._w_enc, out=hidden[: len(part)])


class KernelProduct:
    """Multiplies by `saelib.sae.kernels.gemm`."""

    def __init__(self, w_enc: NDArray[np.float32]) -> None:
        """Takes `w_enc` [d_in, d_sae]."""
        from saelib.sae.kernels.gemm import pack, padded

        self._d_in, self._d_sae = w_enc.shape
        self._panels = pack(np.ascontiguousarray(w_enc.T), self._d_in)
        self._bias = np.zeros(padded(self._d_sae), np.float32)

    def blocks(self, x: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yields blocks of products, see `Product`."""
        from saelib.sae.kernels.gemm import BLOCK_ROWS, encode_rows

        x = np.ascontiguousarray(x)
        hidden = np.empty((BLOCK_ROWS, len(self._bias)), np.float32)
        for start in range(0, len(x), BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, len(x))
            encode_rows(x, start, stop, self._panels, self._bias, hidden)
            # This copies only if there is padding between the rows.
            yield start, np.ascontiguousarray(hidden[: stop - start, : self._d_sae])
