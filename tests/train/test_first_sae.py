"""The SAE at step 0: what it takes from the layer's rows and statistics."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from saelib.activations.rows import ArrayRows
from saelib.config import TrainConfig, VariantConfig
from saelib.evaluation.space import Space
from saelib.preprocessing.fit import make_preprocessing
from saelib.sae.model import SAE
from saelib.train.first_sae import draw_rows, first_sae

CONFIG = TrainConfig(d_sae=40, k=4, batch_size=100)
X = (10 + np.random.default_rng(0).standard_normal((500, 8)) * np.geomspace(5, 0.05, 8)).astype(np.float32)


def started(statistics: Callable[..., Any], seed: int = 0, **options: Any) -> SAE:
    variant, rows, arrays = VariantConfig.model_validate(options), ArrayRows(X, "toy", block_rows=64), statistics(X)
    preprocess = make_preprocessing(variant.preprocessing, arrays)
    return first_sae(rows, Space(preprocess, rows, "cpu"), preprocess, arrays, CONFIG, variant, seed)


@pytest.mark.parametrize("preprocessing", ["raw", "center_median", "pca"])
def test_datapoint_rows_are_tokens_as_the_sae_reads_them(statistics: Callable[..., Any], preprocessing: str):
    options = {"preprocessing": preprocessing, "init": {"rows": {"kind": "datapoint", "blend": 1}}}
    sae, other = started(statistics, **options), started(statistics, seed=1, **options)
    preprocess, center = make_preprocessing(
        VariantConfig.model_validate(options).preprocessing, statistics(X)
    ).without_center()
    read = preprocess.apply(X).astype(np.float64) - center
    cosines = (read / np.linalg.norm(read, axis=1, keepdims=True)) @ sae.W_enc.detach().double().numpy()
    np.testing.assert_allclose(cosines.max(axis=0), 1, atol=1e-5)
    assert len(set(cosines.argmax(axis=0).tolist())) == 40  # no token twice
    assert not torch.equal(sae.W_enc, other.W_enc)


def test_drawn_rows_repeat_only_if_there_are_too_few():
    rows = ArrayRows(X, block_rows=64)
    drawn = draw_rows(rows, 500, seed=0)
    assert np.array_equal(np.sort(drawn, axis=0), np.sort(X, axis=0))
    assert draw_rows(rows, 700, seed=0).shape == (700, 8)


def test_whitened_rows_follow_the_layer_and_change_nothing_else(statistics: Callable[..., Any]):
    plain = started(statistics, preprocessing="center_median")
    white = started(statistics, preprocessing="center_median", init={"rows": {"kind": "whitened", "alpha": 1}})
    assert torch.equal(plain.b_dec, white.b_dec)
    assert torch.equal(white.W_enc, white.W_dec.T)
    # Pre-activations of two latents are then correlated as two random directions are: 1/d in the mean square.
    read = torch.from_numpy(X) - white.b_dec
    correlations = [
        torch.corrcoef((read @ sae.W_enc).detach().T)[~torch.eye(40, dtype=torch.bool)] for sae in (plain, white)
    ]
    assert correlations[1].square().mean().item() == pytest.approx(1 / 8, rel=0.1)
    assert correlations[0].square().mean().item() > 2 / 8


def test_firing_rates_and_calibration_are_measured_on_the_first_batch(statistics: Callable[..., Any]):
    options = {"preprocessing": "center_median", "init": {"firing_rate": 0.25, "calibrate": True}}
    sae = started(statistics, **options)
    x = torch.from_numpy(X[:100])
    assert ((sae.hidden_pre(x) > 0).sum(0) == 25).all()
    fit, wanted = sae(x) - sae.b_dec, x - sae.b_dec
    assert ((fit * wanted).sum() / fit.square().sum()).item() == pytest.approx(1, rel=1e-5)
