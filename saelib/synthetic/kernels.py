"""The compiled loops of the generators: which features a token has, and the sum of those few rows."""

from pathlib import Path
from typing import Any

import numba
import numpy as np

from saelib.files.compiled import compiled_from
from saelib.files.digest import file_sha256
from saelib.progress import announce_compiling

announce_compiling()
_SOURCE = file_sha256(Path(__file__))


def _jit(function: Any) -> Any:
    return compiled_from(numba.njit(cache=True, nogil=True)(function), _SOURCE)


@_jit
def choose(words, n, indices):
    """Writes distinct features below n to the rows of `indices`, int32 [tokens, k], by Floyd's method.

    `words`, uint32 [tokens, k], are random bits. All choices are equally likely, to 1 part in 2^32 / n.
    """
    tokens, k = words.shape
    drawn_by = np.full(n, -1, np.int64)
    for i in range(tokens):
        for c in range(k):
            # One of the first n - k + c + 1 features, or the last of these if the one drawn is taken.
            last = n - k + c
            feature = np.int64((np.uint64(words[i, c]) * np.uint64(last + 1)) >> np.uint64(32))
            if drawn_by[feature] == i:
                feature = last
            drawn_by[feature] = i
            indices[i, c] = feature


@_jit
def add_rows(starts, indices, values, rows, out):
    """Adds values[c] * rows[indices[c]] to out[i], for c from starts[i] to starts[i + 1].

    `starts` is int64 [tokens + 1], `rows` float32 [n, d], `out` float32 [tokens, d]; the terms keep their order.
    """
    for i in range(out.shape[0]):
        for c in range(starts[i], starts[i + 1]):
            row, value = rows[indices[c]], values[c]
            for j in range(out.shape[1]):
                out[i, j] += value * row[j]
