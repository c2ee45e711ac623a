"""The compiled loop that decides which features of the benchmark fire in a token, and with which magnitudes.

A feature fires if a normal variable passes a threshold. A part of that variable is the product of a few `shared`
normal values with the feature's slopes; given these, features are independent, and each fires with probability
Phi(shift + shared . slopes). Only features whose parent fires are looked at, besides roots and free ones.
"""

from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from saelib.files.compiled import compiled_from
from saelib.files.digest import file_sha256
from saelib.progress import announce_compiling

announce_compiling()

_REACH, _STEPS, _BLOCK = 6.5, 1 << 13, 16


def phi_table() -> NDArray[np.float32]:
    """Returns Phi at `_STEPS` + 1 points up to `_REACH`, between which kernels interpolate: 7e-8 off at most."""
    from scipy.special import ndtr

    return ndtr(np.linspace(-_REACH, _REACH, _STEPS + 1)).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _fire(rng, shared, slopes, shifts, means, deviations, first_child, children, always, always_slopes, phi):
    tokens, n = len(shared), len(means)
    starts = np.zeros(tokens + 1, np.int64)
    indices, values = np.empty(64 * tokens + n, np.int32), np.empty(64 * tokens + n, np.float32)
    p, fired = np.empty(len(always), np.float32), np.empty(n, np.int32)
    count = 0
    for i in range(tokens):
        if count + n > len(indices):
            indices, values = np.concatenate((indices, indices)), np.concatenate((values, values))
        parent = count
        for c in range(_independent(rng, shared[i], always, always_slopes, shifts, phi, p, fired)):
            count = _add(rng, fired[c], np.float32(1), means, deviations, indices, values, count)
        while parent < count:  # the list grows: children are parents too
            first = first_child[indices[parent]]
            if first >= 0:
                factor = values[parent] / means[indices[parent]]
                before = count
                for child in range(first, first + children):
                    x = shifts[child]
                    for r in range(shared.shape[1]):
                        x += shared[i, r] * slopes[child, r]
                    if rng.random() < _phi(x, phi):
                        count = _add(rng, child, factor, means, deviations, indices, values, count)
                if count > before + 1:  # one of the siblings stays
                    stays = before + int(rng.random() * (count - before))
                    indices[before], values[before] = indices[stays], values[stays]
                    count = before + 1
            parent += 1
        starts[i + 1] = count
    return starts, indices[:count].copy(), values[:count].copy()


@numba.njit(inline="always")
def _independent(rng, shared, features, slopes, shifts, phi, p, fired):
    """Writes those of `features` that fire to `fired`, and returns their number.

    One random number decides where the next one is: where the probability that none fired falls below it.
    """
    for j in range(len(features)):
        p[j] = shifts[features[j]]
    for r in range(len(shared)):
        for j in range(len(features)):
            p[j] += shared[r] * slopes[r, j]
    for j in range(len(features)):
        p[j] = np.float32(1) - _phi(p[j], phi)
    count, none, bar = 0, 1.0, rng.random()
    for start in range(0, len(features), _BLOCK):
        stop = min(start + _BLOCK, len(features))
        in_block = 1.0
        for j in range(start, stop):
            in_block *= p[j]
        if none * in_block >= bar:
            none *= in_block
            continue
        for j in range(start, stop):
            none *= p[j]
            if none < bar:
                fired[count] = features[j]
                count += 1
                none, bar = 1.0, rng.random()
    return count


@numba.njit(inline="always")
def _phi(x, phi):
    """Interpolates in the table of Phi."""
    position = min(max((x + np.float32(_REACH)) * np.float32(_STEPS / (2 * _REACH)), np.float32(0)), np.float32(_STEPS))
    at = min(np.int32(position), np.int32(_STEPS - 1))
    return phi[at] + (position - np.float32(at)) * (phi[at + 1] - phi[at])


@numba.njit(inline="always")
def _add(rng, feature, factor, means, deviations, indices, values, count):
    """Appends a feature to the list unless its magnitude is 0: it then counts as absent. Returns the list's length."""
    magnitude = means[feature] + deviations[feature] * np.float32(rng.standard_normal())
    if magnitude > 0:
        indices[count], values[count] = feature, factor * magnitude
        count += 1
    return count


fire: Any = compiled_from(_fire, file_sha256(Path(__file__)))
"""Returns the features of each token in compressed rows: starts, indices, values (`saelib.synthetic.codes`).

Args: `rng`; `shared`, float32 [tokens, rank], standard normal; per feature `slopes`, float32 [n, rank], `shifts`,
`means` and `deviations`, float32 [n], and `first_child`, int32 [n], the first of `children` consecutive ones, or -1;
`always`, int32 [m], the features without a parent, and their slopes [rank, m]; `phi`, from `phi_table`.
"""
