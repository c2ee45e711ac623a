"""Selecting the k largest positive entries, and the product that they come from."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.sae.kernels.cpu import why_unsupported

pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason="the kernels do not run on this processor")

ROWS = 40


def select(hidden: NDArray[np.float32], k: int) -> list[list[int]]:
    from saelib.sae.kernels.forward import empty_codes, encode_buffers, keep_nothing, select_block

    rows, d_sae = hidden.shape
    buffers, codes = encode_buffers(rows, d_sae, k), empty_codes(rows, k)
    buffers.hidden[:, :d_sae] = hidden
    select_block(0, rows, codes, keep_nothing(rows), buffers)
    selected = []
    for row in range(rows):
        indices = codes.indices[row, : codes.counts[row]]
        np.testing.assert_array_equal(codes.values[row, : codes.counts[row]], hidden[row, indices])
        selected.append(sorted(indices.tolist()))
    np.testing.assert_array_equal(buffers.positive[:d_sae].astype(bool), (hidden > 0).any(0))
    return selected


def sorted_selection(hidden: NDArray[np.float32], k: int) -> list[list[int]]:
    """By a stable sort: of equal values the first."""
    wanted = []
    for row in hidden:
        best = np.argsort(-np.where(np.isnan(row), -np.inf, row).astype(np.float64), kind="stable")[:k]
        wanted.append(sorted(best[row[best] > 0].tolist()))
    return wanted


SHAPES = [(1, 1), (33, 1), (100, 5), (128, 16), (128, 17), (100, 100), (1000, 32), (1024, 300), (5000, 64), (400, 399)]


@pytest.mark.parametrize(("d_sae", "k"), SHAPES)
@pytest.mark.parametrize("kind", ["random", "ties", "few positive", "none positive", "not finite"])
def test_selected_are_the_largest_positive_entries(d_sae: int, k: int, kind: str) -> None:
    random = np.random.default_rng(0)
    hidden = random.standard_normal((ROWS, d_sae)).astype(np.float32)
    if kind == "ties":
        hidden = np.round(hidden * 2)
    elif kind == "few positive":
        hidden -= 2.5
    elif kind == "none positive":
        hidden = np.minimum(hidden, 0)
    elif kind == "not finite":
        hidden[random.random(hidden.shape) < 0.1] = np.inf
        hidden[random.random(hidden.shape) < 0.1] = -np.inf
        hidden[random.random(hidden.shape) < 0.1] = np.nan
    assert select(hidden, k) == sorted_selection(hidden, k)


@pytest.mark.parametrize(("rows", "d_in", "n"), [(1, 1, 1), (27, 13, 33), (192, 381, 100), (61, 64, 128)])
def test_the_product_is_that_of_float64(rows: int, d_in: int, n: int) -> None:
    from saelib.sae.kernels.gemm import encode_rows, pack, padded

    random = np.random.default_rng(0)
    x, W = random.standard_normal((rows, d_in)), random.standard_normal((n, d_in))
    bias = np.zeros(padded(n), np.float32)
    bias[:n] = random.standard_normal(n)
    out = np.full((rows + 1, padded(n)), np.nan, np.float32)
    encode_rows(x.astype(np.float32), 0, rows, pack(W.astype(np.float32), d_in), bias, out)
    assert np.isnan(out[rows:]).all()
    out = out[:rows]
    np.testing.assert_allclose(out[:, :n], x @ W.T + bias[:n], rtol=0, atol=1e-6 * d_in)
    np.testing.assert_array_equal(out[:, n:], 0)
