"""The space an SAE is trained in, and the scale of its errors."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from saelib.activations.rows import ArrayRows, read_float32
from saelib.config.preprocessings import PreprocessingName
from saelib.evaluation.space import Space, measure_scale
from saelib.preprocessing.fit import make_preprocessing

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
def test_a_whitening_is_of_the_rows(name: PreprocessingName, statistics: Statistics):
    rows, x = rows_with_offset()
    preprocess = make_preprocessing(name, statistics(x))
    space = Space(preprocess, rows, "cpu")
    seen = np.concatenate([sample.x.numpy() for sample in space.samples(rows, 700, 100)])
    np.testing.assert_allclose(seen, preprocess.apply(x), atol=1e-5)
    assert not space.initial_bias.any()
    assert space.mean is None
    # One unit of variance for each dimension that has any.
    assert space.trained.variance == pytest.approx({"zscore": 7, "pca": 6}[name], rel=1e-4)
    assert space.judged.variance == pytest.approx(x.var(0).sum(), rel=1e-5)


@pytest.mark.parametrize("name", ["raw", "center_mean", "layernorm", "ln_center", "rescale"])
def test_centering_leaves_the_rows_and_moves_the_bias(name: PreprocessingName, statistics: Statistics):
    rows, x = rows_with_offset()
    space = Space(make_preprocessing(name, statistics(x)), rows, "cpu")
    expected = x
    if name in ("layernorm", "ln_center"):
        expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    if name == "rescale":
        expected = x * np.sqrt(8) / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(read_float32(space.prepare(rows), 100, 300), expected[100:300], rtol=1e-4, atol=1e-4)
    start = expected.mean(0) if name in ("center_mean", "ln_center") else np.zeros(8)
    np.testing.assert_allclose(space.initial_bias.numpy(), start, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(space.trained.mean, expected.mean(0), rtol=1e-4, atol=1e-4)
    assert space.trained.variance == pytest.approx(expected.var(0).sum(), rel=1e-4)
    # Whatever an SAE reads, it is judged in the activations themselves.
    assert space.judged.variance == pytest.approx(x.var(0).sum(), rel=1e-5)
    assert space.same == (name in ("raw", "center_mean"))


@pytest.mark.parametrize("name", ["raw", "pca"])
def test_samples_cover_every_row_once_in_order(name: PreprocessingName, statistics: Statistics):
    rows, x = rows_with_offset()
    space = Space(make_preprocessing(name, statistics(x)), rows, "cpu")
    for stop, at_a_time in ((1, 100), (256, 1000), (700, 33), (700, 256)):
        samples = list(space.samples(rows, stop, at_a_time))
        assert max(len(sample.x) for sample in samples) <= at_a_time
        if name == "raw":
            seen = torch.cat([sample.x for sample in samples]).numpy()
            assert all(sample.activations is None for sample in samples)
        else:
            seen = np.concatenate([sample.activations for sample in samples if sample.activations is not None])
        np.testing.assert_allclose(seen, x[:stop], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e3, 1e6])
def test_a_large_mean_costs_no_digits_of_the_variance(size: float):
    x = (np.random.default_rng(0).integers(-8, 9, (3000, 6)) / 8 + size).astype(np.float32)
    scale = measure_scale(ArrayRows(x, block_rows=512))
    assert scale.variance == pytest.approx(x.astype(np.float64).var(0).sum(), rel=1e-9)
    np.testing.assert_allclose(scale.mean, x.mean(0, dtype=np.float64), rtol=1e-12, atol=1e-12)
