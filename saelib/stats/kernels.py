"""The compiled loops over tokens. Each handles one row at a time, so that the row stays in the fastest cache.

`values` are rows of `saelib.stats.slabs`: float32 [n, d_in], relative to `origin` [d_in], in scaled units.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from saelib.files.compiled import compiled_from
from saelib.files.digest import file_sha256
from saelib.progress import announce_compiling

announce_compiling()
_SOURCE = file_sha256(Path(__file__))
# Sums may be reordered, but NaN and infinity keep their meaning, because bad tokens are found by them. A division may
# not become a product with a rounded 1 / d: the means of all tokens would be off in one direction, and `ln_mean` too.
_REORDERED = {"reassoc", "contract", "nsz"}
# These are inlined. The process that compiles a function and one that loads it from the cache could otherwise call
# different copies of it, which add in different orders.
_inner = numba.njit(nogil=True, forceinline=True, fastmath=_REORDERED)


def _jit(function: Callable[..., Any]) -> Any:
    return compiled_from(numba.njit(cache=True, nogil=True, fastmath=_REORDERED)(function), _SOURCE)


def _exact_jit(function: Callable[..., Any]) -> Any:
    return compiled_from(numba.njit(cache=True, nogil=True)(function), _SOURCE)


# Numbers of the rows of `pilots`, and of the first rows of `sums`, in `add_moments`.
RAW, NORMALIZED, UNIT = 0, 1, 2
# So many rows are added up in float32 before the sums join the float64 totals, which would be slow to update every row.
_ROWS_IN_FLOAT32 = 64
# A sum of squares below the first has lost digits, and a norm below the second has no inverse in float32.
_LEAST_SQUARE, _LEAST_NORM = np.float32(1e-30), np.float32(1e-37)


@_exact_jit
def decode_half(bits, scale, out):
    """Writes float16 values, given as bits (uint16 [n, d]), times `scale` into float32 `out`. Infinity becomes NaN.

    The bits of a float16, shifted into place, are those of a float32 that is smaller by a factor of 2^112. numpy's cast
    is ten times slower.
    """
    n, d = bits.shape
    out_bits = out.view(np.uint32)
    for i in range(n):
        for j in range(d):
            half = np.uint32(bits[i, j])
            magnitude = (half & np.uint32(0x7FFF)) << np.uint32(13)
            if magnitude >= np.uint32(0x7C00 << 13):
                magnitude = np.uint32(0x7FC00000)
            out_bits[i, j] = magnitude | (half & np.uint32(0x8000)) << np.uint32(16)
        for j in range(d):
            out[i, j] = out[i, j] * np.float32(2.0**112) * scale


@_jit
def add_moments(values, origin, pilots, epsilon, sums, squares, norms):
    """Adds n rows to the sufficient statistics. All sums are of differences to a row of `pilots` (float32 [3, d]).

    `sums`, float64 [6, d], has sums of the raw values, of the LayerNormed tokens and of the unit-norm tokens, then of
    the second, third and fourth powers of the raw values. `squares`, float64 [2], has the squared lengths of the
    LayerNormed and of the unit-norm tokens. The token norms are written to `norms`, float32 [n], and `values` is
    overwritten by the LayerNormed tokens minus their pilot.
    """
    n, d = values.shape
    token = np.empty(d, np.float32)
    recent = np.zeros(sums.shape, np.float32)
    for i in range(n):
        mean, inverse_std, norm = _measure(values[i], origin, epsilon, token)
        norms[i] = norm
        inverse_norm = np.float32(1) / norm if norm > _LEAST_NORM else np.float32(0)
        _add_powers(values[i], pilots[RAW], recent[RAW], recent[3], recent[4], recent[5])
        squares[1] += _add_unit(token, inverse_norm, pilots[UNIT], recent[UNIT])
        squares[0] += _add_normalized(token, mean, inverse_std, pilots[NORMALIZED], values[i], recent[NORMALIZED])
        if i % _ROWS_IN_FLOAT32 == _ROWS_IN_FLOAT32 - 1 or i == n - 1:
            for k in range(sums.shape[0]):
                for j in range(d):
                    sums[k, j] += recent[k, j]
                    recent[k, j] = 0


@_inner
def _measure(row, origin, epsilon, token):
    """Writes the row plus the origin to `token`; returns its mean, 1 / sqrt(variance + epsilon) and its norm.

    All are computed in the type of `origin`, `epsilon` and `token`.
    """
    d = row.shape[0]
    total = np.float32(0)
    square = np.float32(0)
    for j in range(d):
        x = row[j] + origin[j]
        token[j] = x
        total += x
        square += x * x
    mean = total / np.float32(d)
    spread = np.float32(0)
    for j in range(d):
        spread += (token[j] - mean) ** 2
    variance = spread / np.float32(d) + epsilon
    inverse_std = np.float32(1) / np.sqrt(variance) if variance > 0 else variance
    return mean, inverse_std, _small_norm(token) if square < _LEAST_SQUARE else np.sqrt(square)


@_inner
def _small_norm(token):
    """Returns the norm of a token whose squares are too small for float32."""
    largest = np.float32(0)
    for j in range(token.shape[0]):
        largest = max(largest, np.float32(abs(token[j])))
    if largest == 0:
        return largest
    square = np.float32(0)
    for j in range(token.shape[0]):
        square += (np.float32(token[j]) / largest) ** 2
    return largest * np.sqrt(square)


@_inner
def _add_normalized(token, mean, inverse_std, pilot, out, total):
    square = np.float32(0)
    for j in range(token.shape[0]):
        difference = (token[j] - mean) * inverse_std - pilot[j]
        out[j] = difference
        total[j] += difference
        square += difference * difference
    return square


@_inner
def _add_unit(token, inverse_norm, pilot, total):
    square = np.float32(0)
    for j in range(token.shape[0]):
        difference = token[j] * inverse_norm - pilot[j]
        total[j] += difference
        square += difference * difference
    return square


@_inner
def _add_powers(row, pilot, first, second, third, fourth):
    for j in range(row.shape[0]):
        difference = row[j] - pilot[j]
        square = difference * difference
        first[j] += difference
        second[j] += square
        third[j] += square * difference
        fourth[j] += square * square


@_jit
def add_pull(values, origin, layer_norm, epsilon, center, pull, totals):
    """Adds n rows to the sums that a Weiszfeld step from `center` (float64 [d]) needs, in float64.

    `pull`, float64 [d], is the sum of the unit vectors from the center to the tokens. `totals`, float64 [3], has the
    sum of inverse distances, the sum of distances and the number of tokens exactly at the center. With `layer_norm`,
    the tokens are LayerNormed (`origin` and `epsilon` are float64). Without it, they are the values themselves,
    relative to the origin like `center`.
    """
    n, d = values.shape
    token = np.empty(d, np.float64)
    for i in range(n):
        token[:] = values[i]
        mean, inverse_std = 0.0, 1.0
        if layer_norm:
            mean, inverse_std, _ = _measure(values[i], origin, epsilon, token)
        square = 0.0
        for j in range(d):
            difference = (token[j] - mean) * inverse_std - center[j]
            token[j] = difference
            square += difference * difference
        if square == 0:
            totals[2] += 1
            continue
        inverse_distance = 1 / np.sqrt(square)
        totals[0] += inverse_distance
        totals[1] += square * inverse_distance
        for j in range(d):
            pull[j] += token[j] * inverse_distance
