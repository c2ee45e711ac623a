"""The compiled loop that adds the features of each token: k rows instead of a product with all of them."""

from pathlib import Path
from typing import Any

import numba
import numpy as np

from saelib.files.compiled import compiled_from
from saelib.files.digest import file_sha256
from saelib.progress import announce_compiling

announce_compiling()


@numba.njit(cache=True, nogil=True)
def _add_features(words, normals, factors, features, dense, mean, out):
    tokens, active = words.shape
    n = features.shape[0]
    drawn_by = np.full(n, -1, np.int64)
    for i in range(tokens):
        row = out[i]
        factor = factors[i]
        for j in range(row.shape[0]):
            row[j] = (np.float32(1) - factor) * mean[j]
        for c in range(active):
            # Floyd's method: of the first n - active + c + 1 features, or the last of these if the one drawn is taken.
            last = n - active + c
            feature = np.int64((np.uint64(words[i, c]) * np.uint64(last + 1)) >> np.uint64(32))
            if drawn_by[feature] == i:
                feature = last
            drawn_by[feature] = i
            magnitude = factor * (np.abs(normals[i, c]) + np.float32(0.5))
            for j in range(row.shape[0]):
                row[j] += magnitude * features[feature, j]
        for c in range(dense.shape[0]):
            magnitude = factor * normals[i, active + c]
            for j in range(row.shape[0]):
                row[j] += magnitude * dense[c, j]


add_features: Any = compiled_from(_add_features, file_sha256(Path(__file__)))
"""Writes mean + factor * (sum of features + dense part - mean) of each token to `out`.

Args: `words`, uint32 [tokens, active], random bits that choose distinct features uniformly (to 1 part in 2^32 / n);
`normals`, float32 [tokens, active + r], standard normal: the first make magnitudes |g| + 1/2, the others are values
along the rows of `dense`; `factors`, float32 [tokens]; `features`, float32 [n, d]; `dense`, float32 [r, d]; `mean`,
float32 [d], the mean of the sum; `out`, float32 [tokens, d].
"""
