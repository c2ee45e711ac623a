"""Rows in 16-bit integers, how far off their products are, and those products."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import inner, kernel
from saelib.sae.kernels.gather import dot
from saelib.sae.kernels.gemm import padded
from saelib.sae.kernels.llvm.gemm import PANEL, SHORT, TALL
from saelib.sae.kernels.llvm.integers import multiply_one, multiply_short, multiply_tall

LENGTH = np.float32(32000)
"""Norm of a row in integers. Below 2^15, so that by Cauchy and Schwarz no sum of products overflows."""
SMALLEST_NORM = np.float32(1e-15)
"""A shorter row is scaled like one of this norm, whose square is still a normal float."""


class IntegerRows(NamedTuple):
    """Rows, each scaled to a norm of LENGTH and rounded."""

    values: NDArray[np.int16]
    """[rows, width]"""
    pairs: NDArray[np.int32]
    """The same memory, [rows, width / 2]."""
    scales: NDArray[np.float32]
    """[rows]; what the integer 1 stands for."""


class IntegerPanels(NamedTuple):
    """Latents, each scaled to a norm of LENGTH and rounded."""

    pairs: NDArray[np.int32]
    """[panels, width / 2, PANEL], two neighboring 16-bit integers in each."""
    scales: NDArray[np.float32]
    """[panels * PANEL]; what the integer 1 stands for, 0 beyond the latents."""


def empty_rows(rows: int, width: int) -> IntegerRows:
    """Zeros; width is even."""
    values = np.zeros((rows, width), np.int16)
    return IntegerRows(values, values.view(np.int32), np.zeros(rows, np.float32))


def empty_panels(latents: int, width: int) -> IntegerPanels:
    """The same."""
    n = padded(latents)
    return IntegerPanels(np.zeros((n // PANEL, width // 2, PANEL), np.int32), np.zeros(n, np.float32))


def error_bound(width: int) -> float:
    """Largest error of a product of two rows in integers, over the product of their norms.

    Rounding moves a row by at most half an integer in each coordinate, which is sqrt(width) / 2 over LENGTH of its
    norm. A hundredth is added for the rounding of scales and of the result.
    """
    moved = width**0.5 / 2 / float(LENGTH)
    return 1.01 * (2 * moved + moved**2)


@inner
def round_row(rows, row, out, out_row):
    """Row `row` of `rows` [.., width] into row `out_row` of `IntegerRows`."""
    norm = np.sqrt(dot(rows, row, rows, row))
    if norm < SMALLEST_NORM:
        norm = SMALLEST_NORM
    factor = LENGTH / norm
    source, target = rows[row], out.values[out_row]
    for d in range(len(source)):
        target[d] = np.int16(np.int32(np.rint(factor * source[d])))
    out.scales[out_row] = norm / LENGTH


def round_latents(weights: NDArray[np.float32]) -> IntegerPanels:
    """Round W_enc, [n, width]."""
    panels = empty_panels(*weights.shape)
    round_panels(weights, 0, len(panels.pairs), panels, empty_rows(PANEL, weights.shape[1]))
    return panels


@kernel
def round_panels(weights: NDArray[np.float32], first: int, last: int, panels: IntegerPanels, rows: IntegerRows) -> None:
    """Panels `first` to `last` of latents `weights` [n, width]; `rows` [PANEL, width] is a buffer."""
    for panel in range(first, last):
        round_panel(weights, panel, panels, rows)


@inner
def round_panel(weights, panel, panels, rows):
    """One panel."""
    first = panel * PANEL
    latents = min(PANEL, weights.shape[0] - first)
    for j in range(latents):
        round_row(weights, first + j, rows, j)
        panels.scales[first + j] = rows.scales[j]
    pairs, packed = rows.pairs, panels.pairs
    depth = packed.shape[1]
    for d0 in range(0, depth, 16):
        stop = min(d0 + 16, depth)
        for j in range(latents):
            for d in range(d0, stop):
                packed[panel, d, j] = pairs[j, d]


@inner
def multiply_integers(rows, count, panels, bias, out):
    """out[:count] = the first `count` of `rows` times the latents, plus bias; like `gemm.encode_rows`, but rounded."""
    n_panels, depth, _ = panels.pairs.shape
    a, a_scales, pairs, scales = rows.pairs, rows.scales, panels.pairs, panels.scales
    stride = out.shape[1]
    for panel in range(n_panels):
        start, column = panel * depth * PANEL, panel * PANEL
        i = 0
        while i < count:
            if i + TALL <= count:
                multiply_tall(a, a_scales, i, pairs, start, depth, scales, bias, column, out, stride)
                i += TALL
            elif i + SHORT <= count:
                multiply_short(a, a_scales, i, pairs, start, depth, scales, bias, column, out, stride)
                i += SHORT
            else:
                multiply_one(a, a_scales, i, pairs, start, depth, scales, bias, column, out, stride)
                i += 1
