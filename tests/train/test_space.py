"""Into the space an SAE is trained in, and back."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from saelib.config.schema import Preprocessing
from saelib.preprocess import make_preprocess
from saelib.rows import ArrayRows, read_float32
from saelib.train.space import Space

Statistics = Callable[[np.ndarray], dict[str, np.ndarray]]


def rows_with_offset() -> tuple[ArrayRows, np.ndarray]:
    """Rows as a store keeps them, and their values; two dimensions carry nothing of their own."""
    x = np.random.default_rng(0).standard_normal((700, 8))
    x[:, 6] = x[:, 0] - x[:, 1]
    x[:, 7] = 0
    stored = ArrayRows(x.astype(np.float32), block_rows=256)
    stored.offset = np.linspace(-40, 40, 8, dtype=np.float32)
    return stored, x + stored.offset


@pytest.mark.parametrize("name", ["zscore", "pca"])
def test_a_whitening_can_be_undone(name: Preprocessing, statistics: Statistics):
    rows, x = rows_with_offset()
    space = Space(make_preprocess(name, statistics(x)), rows, "cpu")
    for seen, judged in space.samples(rows, 700):
        torch.testing.assert_close(space.restore(seen), judged, rtol=1e-5, atol=1e-4)
    assert not space.initial_bias().any()
    # One unit of variance for each dimension that has any.
    assert space.trained.variance == pytest.approx({"zscore": 7, "pca": 6}[name], rel=1e-4)
    assert space.judged.variance == pytest.approx(x.var(0).sum(), rel=1e-5)


@pytest.mark.parametrize("name", ["raw", "center_mean", "ln_center"])
def test_centring_leaves_the_rows_and_moves_the_bias(name: Preprocessing, statistics: Statistics):
    rows, x = rows_with_offset()
    space = Space(make_preprocess(name, statistics(x)), rows, "cpu")
    expected = x
    if name == "ln_center":
        expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(read_float32(space.prepare(rows), 100, 300), expected[100:300], rtol=1e-4, atol=1e-4)
    start = np.zeros(8) if name == "raw" else expected.mean(0)
    np.testing.assert_allclose(space.initial_bias().numpy(), start, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(space.trained.mean.numpy(), expected.mean(0), rtol=1e-4, atol=1e-4)
    assert space.judged is space.trained


def test_samples_cover_every_row_once_in_order(statistics: Statistics):
    rows, x = rows_with_offset()
    space = Space(make_preprocess("raw", statistics(x)), rows, "cpu")
    for stop in (1, 256, 700):
        seen = torch.cat([sample for sample, _ in space.samples(rows, stop)])
        np.testing.assert_allclose(seen.numpy(), x[:stop], rtol=1e-5, atol=1e-5)
