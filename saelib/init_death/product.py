"""Pre-activations of tokens, a few at a time, so that they are looked through while they are in cache."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.cpu import why_unsupported

BLAS_VALUES = 2**22
"""Pre-activations made at a time by BLAS: 16 MB, so many tokens that its product is at its best (measured)."""


class Product(Protocol):
    """x -> x W_enc."""

    def blocks(self, x: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """For x [tokens, d_in]: the first token of a block, and its products [some tokens, d_sae].

        The array is written again for the next block.
        """
        ...


def make_product(w_enc: NDArray[np.float32]) -> Product:
    """For `w_enc` [d_in, d_sae]: by the kernels that SAEs are trained with where they run, otherwise by BLAS."""
    return KernelProduct(w_enc) if why_unsupported() is None else BlasProduct(w_enc)


class BlasProduct:
    """By numpy."""

    def __init__(self, w_enc: NDArray[np.float32]) -> None:
        """`w_enc`: [d_in, d_sae]."""
        self._w_enc = w_enc
        self._rows = max(1, BLAS_VALUES // w_enc.shape[1])

    def blocks(self, x: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """See `Product`."""
        hidden = np.empty((min(len(x), self._rows), self._w_enc.shape[1]), np.float32)
        for start in range(0, len(x), self._rows):
            part = x[start : start + self._rows]
            yield start, np.matmul(part, self._w_enc, out=hidden[: len(part)])


class KernelProduct:
    """By `saelib.sae.kernels.gemm`."""

    def __init__(self, w_enc: NDArray[np.float32]) -> None:
        """`w_enc`: [d_in, d_sae]."""
        from saelib.sae.kernels.gemm import pack, padded

        self._d_in, self._d_sae = w_enc.shape
        self._panels = pack(np.ascontiguousarray(w_enc.T), self._d_in)
        self._bias = np.zeros(padded(self._d_sae), np.float32)

    def blocks(self, x: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """See `Product`."""
        from saelib.sae.kernels.gemm import BLOCK_ROWS, encode_rows

        x = np.ascontiguousarray(x)
        hidden = np.empty((BLOCK_ROWS, len(self._bias)), np.float32)
        for start in range(0, len(x), BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, len(x))
            encode_rows(x, start, stop, self._panels, self._bias, hidden)
            # Without a copy where no padding stands between the rows.
            yield start, np.ascontiguousarray(hidden[: stop - start, : self._d_sae])
