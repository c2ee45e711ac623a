"""Every figure against its definition in float64, and against cases whose answer is known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

from saelib.config import TrainConfig, VariantConfig
from saelib.config.schema import Preprocessing
from saelib.preprocess import Preprocess
from saelib.rows import ArrayRows
from saelib.train.evaluate import Evaluation, evaluate
from saelib.train.model import TopKSAE
from saelib.train.rate import PROBE_ROWS
from saelib.train.space import Space

TrainOn = Callable[..., Path]


def activations(tokens: int, seed: int, size: float = 3.0) -> np.ndarray:
    """Correlated, of unequal scale, with a mean of any size; the last dimension follows from the first."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, 12)) @ np.random.default_rng(0).standard_normal((12, 12))
    x[:, -1] = 2 * x[:, 0]
    return (x * np.linspace(0.2, 3, 12) + size * np.arange(12)).astype(np.float32)


def naive_evaluation(out: Path, raw: np.ndarray, train: np.ndarray, layernorm: bool, k: int) -> dict[str, float]:
    """All figures of one SAE from its file, in float64 numpy."""
    w = {name: values.astype(np.float64) for name, values in load_file(out / "weights.safetensors").items()}

    def enter(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        if layernorm:
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        scale = w.get("preprocess_scale")
        if scale is None:
            return x
        x = x - w["preprocess_center"]
        return x * scale if scale.ndim == 1 else x @ scale

    x = enter(raw)
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    rank = (-pre).argsort(1).argsort(1)
    z = np.where((rank < k) & (pre > 0), pre, 0)
    x_hat = z @ w["W_dec"] + w["b_dec"]
    figures = _errors(x, x_hat, enter(train), "_trained")
    scale = w.get("preprocess_scale")
    if scale is None:
        figures |= _errors(x, x_hat, enter(train), "")
    else:
        back = np.diag(1 / scale) if scale.ndim == 1 else np.linalg.pinv(scale)
        figures |= _errors(raw.astype(np.float64), x_hat @ back + w["preprocess_center"], train, "")
    return figures | {
        "l0": float((z > 0).sum(1).mean()),
        "threshold": float(np.maximum(np.sort(pre, axis=1)[:, -k], 0).mean()),
        "dead_relu": float((pre.max(0) <= 0).mean()),
        "dead_topk_only": float(((pre.max(0) > 0) & (z.max(0) == 0)).mean()),
        "dead_total": float((z.max(0) == 0).mean()),
    }


def _errors(x: np.ndarray, x_hat: np.ndarray, train: np.ndarray, suffix: str) -> dict[str, float]:
    mse = ((x - x_hat) ** 2).sum(1).mean()
    return {
        f"mse{suffix}": mse,
        f"normalized_mse{suffix}": mse / train.astype(np.float64).var(0).sum(),
        f"variance_explained{suffix}": 1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(),
    }


@pytest.mark.parametrize("preprocessing", ["raw", "center_median", "ln_center", "zscore", "pca"])
def test_figures_are_their_definitions_over_all_heldout_rows(train_on: TrainOn, preprocessing: Preprocessing):
    config = TrainConfig(d_sae=48, k=4, batch_size=128, steps=60, learning_rates=(1e-3,), record_every=60)
    train, heldout = activations(1500, 1), activations(PROBE_ROWS + 900, 2)
    out = train_on(train, heldout, config, VariantConfig(preprocessing=preprocessing))
    sweep = json.loads((out / "sweep.json").read_text())
    (run,) = sweep["runs"]
    expected = naive_evaluation(out, heldout, train, preprocessing == "ln_center", k=4)
    assert {name: run[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert sweep["errors_in"] == ("layernormed activations" if preprocessing == "ln_center" else "activations")
    # The history looks at the probe alone.
    last = pl.read_parquet(out / "history.parquet").row(-1, named=True)
    probe = naive_evaluation(out, heldout[:PROBE_ROWS], train, preprocessing == "ln_center", k=4)
    assert {name: last[name] for name in probe} == pytest.approx(probe, rel=1e-4)


@pytest.mark.parametrize("size", [0.0, 10.0, 1e4])
def test_predicting_the_mean_explains_nothing_however_large_it_is(size: float):
    x = np.random.default_rng(0).standard_normal((3000, 6)).astype(np.float32) + np.float32(size)
    sae = TopKSAE(6, 9, 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.b_dec.copy_(torch.from_numpy(x.mean(0, dtype=np.float64)))
        sae.b_enc.fill_(-1e6)
    measured = measure(sae, x)
    assert measured.variance_explained == pytest.approx(0, abs=1e-5)
    assert measured.normalized_mse == pytest.approx(1, abs=1e-5)
    assert (measured.l0, measured.threshold, measured.dead_relu) == (0, 0, 1)


def measure(sae: TopKSAE, x: np.ndarray) -> Evaluation:
    rows = ArrayRows(x, block_rows=512)
    space = Space(Preprocess(np.zeros(x.shape[1])), rows, "cpu")
    return evaluate(sae, space.samples(rows, len(x)), space)


def test_death_is_split_by_what_keeps_a_latent_from_firing():
    # Four latents read +x, -x and two fractions of +x on one positive axis: one wins always, one is never positive.
    sae = TopKSAE(1, 4, 1, torch.Generator())
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, -1.0, 0.5, 0.25]]))
    measured = measure(sae, np.random.default_rng(0).uniform(1, 2, (100, 1)).astype(np.float32))
    assert (measured.dead_relu, measured.dead_topk_only, measured.dead_total) == (0.25, 0.5, 0.75)


def test_bias_capture_starts_where_the_bias_does(train_on: TrainOn):
    config = TrainConfig(d_sae=48, k=4, batch_size=128, steps=1, learning_rates=(1e-3,))
    x = activations(600, 1)

    def first(preprocessing: Preprocessing) -> dict[str, Any]:
        out = train_on(x, x, config, VariantConfig(preprocessing=preprocessing), folder=preprocessing)
        return pl.read_parquet(out / "history.parquet").row(0, named=True)

    assert first("raw")["bias_capture"] == 0
    assert first("center_mean")["bias_capture"] == pytest.approx(1, rel=1e-6)
    assert first("pca")["bias_capture"] is None
