"""Maxima and histograms of the products of probes and tokens, updated while the products are in cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from saelib.files.compiled import compiled_from
from saelib.files.digest import file_sha256
from saelib.progress import announce_compiling

announce_compiling()
_SOURCE = file_sha256(Path(__file__))


def _compiled(function: Callable[..., Any]) -> Any:
    return compiled_from(njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})(function), _SOURCE)


@_compiled
def record_products(
    products: NDArray[np.float32],
    inverse_lengths: NDArray[np.float32],
    bins_per_cosine: np.float32,
    largest_product: NDArray[np.float32],
    largest_cosine: NDArray[np.float32],
    counts: NDArray[np.int32],
) -> None:
    """Updates the largest product and cosine of each probe, and its histogram of positive cosines, by some tokens.

    Args:
        products: [probes, tokens], finite.
        inverse_lengths: [tokens]; 1 / ||x||. Products times it are finite, because the caller leaves out zeros.
        bins_per_cosine: Bins of the histogram from cosine 0 to 1; its last bin also holds all larger cosines.
        largest_product: [probes], updated in place.
        largest_cosine: [probes], updated in place.
        counts: [probes, 1 + bins], updated in place; bin 0 holds the cosines <= 0.
    """
    last = np.float32(counts.shape[1] - 1)
    for probe in range(products.shape[0]):
        product, cosine = largest_product[probe], largest_cosine[probe]
        for token in range(products.shape[1]):
            value = products[probe, token]
            product = max(product, value)
            cosine = max(cosine, value * inverse_lengths[token])
        largest_product[probe], largest_cosine[probe] = product, cosine
        for token in range(products.shape[1]):
            place = products[probe, token] * inverse_lengths[token] * bins_per_cosine + np.float32(1)
            counts[probe, np.int32(min(max(place, np.float32(0)), last))] += 1
