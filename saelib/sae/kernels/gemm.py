"""x W + b by blocks of rows, for a W that was packed once: as fast as the processor multiplies."""

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import inner, kernel
from saelib.sae.kernels.llvm.gemm import PANEL, SHORT, TALL, multiply_one, multiply_short, multiply_tall

BLOCK_ROWS = 192
"""Rows worth multiplying at a time: as many as stay in cache while the panels pass by. A multiple of TALL."""
BLOCK_SIZE = 1 << 17
"""Entries of the product for which a block may have more rows: still in cache, and fewer calls."""


def padded(columns: int) -> int:
    """The next multiple of PANEL."""
    return -(-columns // PANEL) * PANEL


def pack(weights: NDArray[np.float32], d_in: int) -> NDArray[np.float32]:
    """Latents [n, at least d_in], contiguous, as panels [padded(n) / PANEL, d_in, PANEL], zeros beyond n."""
    panels = np.zeros((padded(len(weights)) // PANEL, d_in, PANEL), np.float32)
    pack_panels(weights, 0, len(panels), panels)
    return panels


def block_rows(rows: int, n: int) -> int:
    """Rows of the blocks into which to divide a product [rows, n]: a multiple of TALL, all but the last alike."""
    most = max(BLOCK_ROWS, BLOCK_SIZE // padded(n))
    blocks = -(-rows // most)
    return -(-rows // blocks // TALL) * TALL


@kernel
def pack_panels(weights: NDArray[np.float32], first: int, last: int, panels: NDArray[np.float32]) -> None:
    """Panels `first` to `last` of `pack`, in place; `weights` may have more columns than `panels` has rows."""
    for panel in range(first, last):
        pack_panel(weights, panel, panels)


@inner
def pack_panel(weights, panel, panels):
    """One panel. Sixteen columns at a time, so that reads and writes share cache lines."""
    first = panel * PANEL
    latents = min(PANEL, weights.shape[0] - first)
    depth = panels.shape[1]
    for d0 in range(0, depth, 16):
        stop = min(d0 + 16, depth)
        for j in range(latents):
            for d in range(d0, stop):
                panels[panel, d, j] = weights[first + j, d]


@kernel
def encode_rows(
    x: NDArray[np.float32],
    start: int,
    stop: int,
    panels: NDArray[np.float32],
    bias: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """out[:stop - start] = x[start:stop] W + bias.

    Args:
        x: [rows, at least d_in], contiguous.
        start: First row.
        stop: Behind the last row.
        panels: W, from `pack`.
        bias: [padded(n)]; the result beyond n is bias alone.
        out: [at least stop - start, at least padded(n)], contiguous.
    """
    gemm_rows(x, start, stop - start, panels, bias, out)


@inner
def gemm_rows(x, start, rows, panels, bias, out):
    """`encode_rows`, for kernels."""
    n_panels, depth, _ = panels.shape
    x_stride, out_stride = x.shape[1], out.shape[1]
    for panel in range(n_panels):
        weights, column = panel * depth * PANEL, panel * PANEL
        i = 0
        while i < rows:
            a, c = (start + i) * x_stride, i * out_stride + column
            if i + TALL <= rows:
                multiply_tall(x, a, x_stride, panels, weights, depth, bias, column, out, c, out_stride)
                i += TALL
            elif i + SHORT <= rows:
                multiply_short(x, a, x_stride, panels, weights, depth, bias, column, out, c, out_stride)
                i += SHORT
            else:
                multiply_one(x, a, x_stride, panels, weights, depth, bias, column, out, c, out_stride)
                i += 1
