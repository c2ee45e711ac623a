"""Kernels and BLAS give the same pre-activations."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.init_death.product import BlasProduct, KernelProduct, Product
from saelib.sae.kernels.cpu import why_unsupported

ROUTES = [
    BlasProduct,
    pytest.param(KernelProduct, marks=pytest.mark.skipif(why_unsupported() is not None, reason=str(why_unsupported()))),
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("tokens", "d_in", "d_sae"), [(1, 1, 1), (97, 33, 40), (300, 64, 256), (1000, 7, 31)])
def test_blocks_are_the_product_in_order(
    route: Callable[[NDArray[np.float32]], Product], tokens: int, d_in: int, d_sae: int
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((tokens, d_in), dtype=np.float32)
    w_enc = rng.standard_normal((d_in, d_sae), dtype=np.float32)
    found, starts = [], []
    for start, hidden in route(w_enc).blocks(x):
        starts.append(start)
        found.append(hidden.copy())
    assert starts == np.cumsum([0, *map(len, found[:-1])]).tolist()
    expected = x.astype(np.float64) @ w_enc.astype(np.float64)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-6 * d_in)
