"""On a device, preprocessings compute what numpy computes on a CPU."""

from typing import get_args

import numpy as np
import pytest
import torch

from saelib.activations.rows import ArrayRows
from saelib.config.preprocessings import PreprocessingName
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.on_device import DevicePreprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.stats.compute import compute_stats

NAMES = get_args(PreprocessingName)
EXACT = ("raw", "center_median", "center_coordinate_median", "center_trimmed_mean", "center_mean", "zscore")
"""Preprocessings without sums over dimensions."""
OFFSET = np.array([0, 3, -7, 0, 100, 0.5, 0, -2], np.float32)


@pytest.fixture(scope="module")
def fitted() -> tuple[np.ndarray, dict[str, Preprocessing]]:
    """Stored rows in float16 about `OFFSET`, with a row of zeros, and every preprocessing fitted to them."""
    rng = np.random.default_rng(4)
    stored = (rng.standard_normal((400, 8)) * np.arange(1, 9)).astype(np.float16)
    stored[7] = (-OFFSET).astype(np.float16)
    arrays = compute_stats(ArrayRows(stored, offset=OFFSET)).arrays
    return stored, {name: make_preprocessing(name, arrays, tokens=400, name="toy") for name in NAMES}


@pytest.mark.parametrize("with_offset", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_rows_come_out(
    fitted: tuple[np.ndarray, dict[str, Preprocessing]], name: str, with_offset: bool, device: str
) -> None:
    stored, preprocessings = fitted
    offset = OFFSET if with_offset else None
    wanted = preprocessings[name].apply(stored, offset)
    added = None if offset is None else torch.from_numpy(offset).to(device)
    found = DevicePreprocessing(preprocessings[name], device).apply(torch.from_numpy(stored).to(device), added)
    assert found.dtype == torch.float32
    if name in EXACT:
        assert np.array_equal(found.cpu().numpy(), wanted)
    np.testing.assert_allclose(found.cpu().numpy(), wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NAMES)
def test_the_way_back_is_the_same(fitted: tuple[np.ndarray, dict[str, Preprocessing]], name: str, device: str) -> None:
    stored, preprocessings = fitted
    whole = stored.astype(np.float64) + OFFSET
    x_hat = preprocessings[name].apply(stored, OFFSET) + np.float32(0.1)
    back = DevicePreprocessing(preprocessings[name], device)
    found = back.restore(torch.from_numpy(x_hat).to(device), torch.from_numpy(whole).to(device))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.cpu().numpy(), preprocessings[name].restore(x_hat, whole), rtol=1e-5, atol=1e-5)


def test_a_token_at_the_center_becomes_zeros_and_not_rounding_errors(device: str) -> None:
    center = np.array([1 / 3, 1e4 / 7, -1e-3], np.float64)
    token = torch.from_numpy(center.astype(np.float32)[None]).to(device)
    assert (token.double().cpu().numpy() - center).any()
    for scale in (None, np.ones(3, np.float32), np.eye(3, dtype=np.float32)):
        assert not DevicePreprocessing(Preprocessing(center, scale), device).apply(token, None).any()


def test_tokens_without_variation_stay_finite(device: str) -> None:
    x = torch.tensor([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]], device=device)
    for norm in ("layernorm", "sqrt_d"):
        preprocess = Preprocessing(np.zeros(3), token_norm=norm)
        found = DevicePreprocessing(preprocess, device).apply(x, None).cpu().numpy()
        np.testing.assert_array_equal(found, preprocess.apply(x.cpu().numpy()))
