"""Every figure against its definition in float64, and against cases whose answer is known."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

from saelib.activations.rows import ArrayRows
from saelib.config import TrainConfig, VariantConfig
from saelib.evaluation import reconstruction as evaluation
from saelib.evaluation.caveats import few_tokens_decide
from saelib.evaluation.reconstruction import evaluate
from saelib.evaluation.result import Evaluation
from saelib.evaluation.space import Space
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.model import SAE, Architecture
from saelib.train.history import PROBE_ROWS

TrainOn = Callable[..., Path]


def activations(tokens: int, seed: int, size: float = 3.0) -> np.ndarray:
    """Correlated, of unequal scale, with a mean of any size; the last dimension follows from the first."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, 12)) @ np.random.default_rng(0).standard_normal((12, 12))
    x[:, -1] = 2 * x[:, 0]
    return (x * np.linspace(0.2, 3, 12) + size * np.arange(12)).astype(np.float32)


def naive_evaluation(out: Path, raw: np.ndarray, train: np.ndarray, kind: str, k: int) -> dict[str, float | None]:
    """All figures of one SAE from its file, in float64 numpy."""
    w = {name: values.astype(np.float64) for name, values in load_file(out / "weights.safetensors").items()}
    raw, train = raw.astype(np.float64), train.astype(np.float64)
    scale = w.get("preprocess_scale")

    def enter(x: np.ndarray) -> np.ndarray:
        shift, size = of_tokens(x, kind)
        x = (x - shift) / size
        if scale is None:
            return x
        x = x - w["preprocess_center"]
        return x * scale if scale.ndim == 1 else x @ scale

    def leave(x_hat: np.ndarray) -> np.ndarray:
        if scale is not None:
            x_hat = x_hat @ (np.diag(1 / scale) if scale.ndim == 1 else np.linalg.pinv(scale)) + w["preprocess_center"]
        shift, size = of_tokens(raw, kind)
        return x_hat * size + shift

    x = enter(raw)
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    rank = (-pre).argsort(1).argsort(1)
    z = np.where((rank < k) & (pre > 0), pre, 0)
    x_hat = z @ w["W_dec"] + w["b_dec"]
    captures: dict[str, float | None] = dict.fromkeys(("bias_capture", "bias_distance", "feature_capture"))
    if scale is None:
        mu = enter(train).mean(0)
        captures["bias_capture"] = w["b_dec"] @ mu / (mu @ mu)
        captures["bias_distance"] = 1 - np.linalg.norm(w["b_dec"] - mu) / np.linalg.norm(mu)
        captures["feature_capture"] = (z @ w["W_dec"]).mean(0) @ mu / (mu @ mu)
    return (
        errors(x, x_hat, enter(train), "_trained")
        | errors(raw, leave(x_hat), train, "")
        | token_errors(raw, leave(x_hat), train)
        | {
            "l0": float((z > 0).sum(1).mean()),
            "mean_kth_activation": float(np.maximum(np.sort(pre, axis=1)[:, -k], 0).mean()),
            "dead_relu": float((pre.max(0) <= 0).mean()),
            "dead_topk_only": float(((pre.max(0) > 0) & (z.max(0) == 0)).mean()),
            "dead_total": float((z.max(0) == 0).mean()),
        }
        | captures
    )


def of_tokens(x: np.ndarray, kind: str) -> tuple[Any, Any]:
    """Shift and size that a token norm takes away."""
    if kind in ("layernorm", "ln_center"):
        return x.mean(1, keepdims=True), np.sqrt(x.var(1, keepdims=True) + 1e-5)
    if kind == "rescale":
        return 0, np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1])
    return 0, 1


def errors(x: np.ndarray, x_hat: np.ndarray, train: np.ndarray, suffix: str) -> dict[str, float | None]:
    mse = ((x - x_hat) ** 2).sum(1).mean()
    return {
        f"mse{suffix}": mse,
        f"normalized_mse{suffix}": mse / train.var(0).sum(),
        f"variance_explained{suffix}": 1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(),
    }


def token_errors(x: np.ndarray, x_hat: np.ndarray, train: np.ndarray) -> dict[str, float | None]:
    fractions = ((x - x_hat) ** 2).sum(1) / ((x - geometric_median(train)) ** 2).sum(1)
    return {"token_fvu_median": float(np.median(fractions)), "token_fvu_mean": fractions.mean()}


def geometric_median(x: np.ndarray) -> np.ndarray:
    """Plain Weiszfeld steps."""
    x = x.astype(np.float64)
    center = x.mean(0)
    for _ in range(500):
        weights = 1 / np.linalg.norm(x - center, axis=1)
        center = weights @ x / weights.sum()
    return center


@pytest.mark.parametrize(
    "kind", ["raw", "center_median", "layernorm", "ln_center", "rescale", "zscore", "pca", "active_subspace"]
)
def test_figures_are_their_definitions_over_the_half_that_is_reported(train_on: TrainOn, kind: str):
    config = TrainConfig(d_sae=48, k=4, batch_size=128, steps=60, learning_rates=(1e-3,), record_every=60)
    train, heldout = activations(1500, 1), activations(PROBE_ROWS + 900, 2)
    out = train_on(train, heldout, config, VariantConfig.model_validate({"preprocessing": kind}))
    (run,) = json.loads((out / "sweep.json").read_text())["runs"]
    half = len(heldout) // 2  # the first half is for the choice of a rate
    assert_close(run, naive_evaluation(out, heldout[half:], train, kind, k=4))
    chosen_by = naive_evaluation(out, heldout[:half], train, kind, k=4)["token_fvu_median"]
    assert run["choosing_token_fvu_median"] == pytest.approx(chosen_by, rel=1e-4)
    # The history looks at the probe alone, and its dead are the training's.
    last = pl.read_parquet(out / "history.parquet").row(-1, named=True)
    probe = naive_evaluation(out, heldout[:PROBE_ROWS], train, kind, k=4)
    probe = {f"probe_{name}" if name.startswith("dead_") else name: value for name, value in probe.items()}
    assert_close(last, probe)


def assert_close(found: dict[str, Any], expected: dict[str, float | None]) -> None:
    assert {name for name in expected if found[name] is None} == {n for n, value in expected.items() if value is None}
    numbers = {name: value for name, value in expected.items() if value is not None}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-4)


def make_sae(architecture: Architecture = "topk", d_in: int = 6, d_sae: int = 9, k: int | None = 2) -> SAE:
    rng = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=rng), dim=1)
    tensors = {"W_enc": W_dec.T.clone(), "W_dec": W_dec, "b_enc": torch.zeros(d_sae), "b_dec": torch.zeros(d_in)}
    if architecture == "jumprelu":
        tensors["threshold"] = torch.full((d_sae,), 0.5)
    return SAE(architecture, tensors, k)


def measure(sae: SAE, x: np.ndarray) -> Evaluation:
    rows = ArrayRows(x, block_rows=512)
    space = Space(Preprocessing(np.zeros(x.shape[1])), rows, "cpu")
    return evaluate([sae], space.samples(rows, len(x), 300), space)[0]


@pytest.mark.parametrize("size", [0.0, 10.0, 1e4, 1e6])
def test_predicting_the_mean_explains_nothing_however_large_it_is(size: float):
    x = np.random.default_rng(0).integers(-8, 9, (3000, 6)).astype(np.float32) + np.float32(size)
    sae = make_sae()
    with torch.no_grad():
        sae.b_dec.copy_(torch.from_numpy(x.mean(0, dtype=np.float64)))
        sae.b_enc.fill_(-1e8)
    measured = measure(sae, x)
    assert measured.variance_explained == pytest.approx(0, abs=1e-4)
    assert measured.normalized_mse == pytest.approx(1, abs=1e-4)
    assert (measured.l0, measured.mean_kth_activation, measured.dead_relu) == (0, 0, 1)
    if size:
        assert (measured.bias_capture, measured.feature_capture) == (pytest.approx(1), pytest.approx(0, abs=1e-7))


def test_a_few_massive_tokens_decide_the_variance_and_not_the_typical_token():
    """39 of SmolLM2's 8,192 tokens hold 99 % of the variance; an SAE may explain them and hardly anything else."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4_000, 6)).astype(np.float32)
    plain = measure(blind_sae(), x)
    assert (plain.variance_explained, plain.token_fvu_median) == (
        pytest.approx(0, abs=0.01),
        pytest.approx(1, abs=0.02),
    )
    x[:20, 0] += 1_000
    massive = measure(blind_sae(), x)  # all that it knows is the direction of the massive tokens
    assert massive.variance_explained > 0.98
    assert massive.token_fvu_median > 0.7
    assert few_tokens_decide(plain.variance_explained, plain.token_fvu_median) is None
    assert "a few tokens decide" in (few_tokens_decide(massive.variance_explained, massive.token_fvu_median) or "")


def blind_sae() -> SAE:
    """Explains values of the first dimension above 100, and nothing else."""
    sae = make_sae(d_sae=1, k=1)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(6)[:, :1])
        sae.W_dec.copy_(torch.eye(6)[:1])
        sae.b_enc.fill_(-100)
    return sae


def test_a_token_at_the_center_has_no_fraction_of_its_own():
    x = np.zeros((5, 6), np.float32)
    x[0, 0], x[1, 0], x[2, 1], x[3, 1] = 2, -2, 1, -1  # the median is the token of zeros
    measured = measure(blind_sae(), x)
    assert measured.token_fvu_median == pytest.approx(1)
    assert measured.token_fvu_mean == pytest.approx(1)


@pytest.mark.parametrize(
    ("explained", "typical_fvu", "disagree"),
    [
        (0.999, 0.316, True),  # SmolLM2, raw
        (0.908, 9.47, True),  # whitened
        (0.999, 0.08, True),
        (0.87, 0.103, False),
        (0.976, 0.011, False),  # twice, but both next to nothing
        (0.3, 0.9, False),
    ],
)
def test_where_the_two_disagree(explained: float, typical_fvu: float, disagree: bool):
    assert bool(few_tokens_decide(explained, typical_fvu)) == disagree


def test_death_is_split_by_what_keeps_a_latent_from_firing():
    # Four latents read +x, -x and two fractions of +x on one positive axis: one wins always, one is never positive.
    sae = make_sae(d_in=1, d_sae=4, k=1)
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, -1.0, 0.5, 0.25]]))
    measured = measure(sae, np.random.default_rng(0).uniform(1, 2, (100, 1)).astype(np.float32))
    assert (measured.dead_relu, measured.dead_topk_only, measured.dead_total) == (0.25, 0.5, 0.75)


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "batch_topk"])
def test_other_architectures_are_measured_on_their_own_codes(architecture: Architecture):
    x = activations(700, 3)[:, :6]
    sae = make_sae(architecture)
    if architecture == "batch_topk":
        sae.threshold.fill_(1.5)
    with torch.no_grad():
        z = sae.encode(torch.from_numpy(x)).double().numpy()
        pre = sae.hidden_pre(torch.from_numpy(x)).numpy()
        x_hat = sae(torch.from_numpy(x)).double().numpy()
    measured = measure(sae, x)
    smallest = [row[row > 0].min() if (row > 0).any() else 0.0 for row in z]
    assert measured.l0 == pytest.approx((z > 0).sum(1).mean())
    assert measured.mean_kth_activation == pytest.approx(np.mean(smallest), rel=1e-5)
    assert measured.dead_total == (z.max(0) == 0).mean()
    assert measured.dead_relu == (pre.max(0) <= 0).mean()
    assert measured.mse == pytest.approx(((x - x_hat) ** 2).sum(1).mean(), rel=1e-5)


def test_what_is_measured_does_not_depend_on_how_much_is_held_at_once(monkeypatch: pytest.MonkeyPatch):
    assert [evaluation.rows_at_a_time(d_sae) for d_sae in (1, 8192, 2**20, 2**30)] == [2048, 2048, 16, 1]
    x = activations(500, 3)[:, :6]
    rows = ArrayRows(x, block_rows=512)
    space = Space(Preprocessing(np.zeros(6)), rows, "cpu")
    found = [vars(evaluate([make_sae()], space.samples(rows, 500, n), space)[0]) for n in (7, 500)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_several_saes_are_measured_as_each_alone():
    x = activations(500, 3)[:, :6]
    rows = ArrayRows(x, block_rows=512)
    space = Space(Preprocessing(np.zeros(6)), rows, "cpu")
    saes = [make_sae(), make_sae("relu", k=None)]
    assert evaluate(saes, space.samples(rows, 500, 99), space) == [
        evaluate([sae], space.samples(rows, 500, 99), space)[0] for sae in saes
    ]


def test_bias_capture_starts_where_the_bias_does(train_on: TrainOn):
    config = TrainConfig(d_sae=48, k=4, batch_size=128, steps=1, learning_rates=(1e-3,))
    x = activations(600, 1)

    def first(kind: str) -> dict[str, Any]:
        out = train_on(x, x, config, VariantConfig.model_validate({"preprocessing": kind}), folder=kind)
        return pl.read_parquet(out / "history.parquet").row(0, named=True)

    raw, centered, white = first("raw"), first("center_mean"), first("pca")
    assert (raw["bias_capture"], raw["bias_distance"]) == (0, 0)
    assert (centered["bias_capture"], centered["bias_distance"]) == pytest.approx((1, 1), rel=1e-5)
    assert white["bias_capture"] is None
    assert not math.isnan(raw["feature_capture"])
