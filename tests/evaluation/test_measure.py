"""The measure of any SAE, against plain float64 on the whole array."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

import saelib.evaluation.reconstruction
from saelib.activations.rows import ArrayRows
from saelib.errors import UserError
from saelib.evaluation.measure import measure
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE
from saelib.sae.model import SAE, Architecture


@pytest.mark.parametrize("preprocessing", ["raw", "pca", "ln_center", "rescale"])
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_against_the_definitions(architecture: str, preprocessing: str, make: Any, run: Any, rows: Any) -> None:
    saved = make(architecture, preprocessing)
    with torch.no_grad():
        saved.sae.b_enc[:5] = -100.0  # never above 0
        if architecture == "abs_topk":  # for which nothing but 0 is dead
            saved.sae.W_enc[:, :5] = saved.sae.b_enc[:5] = 0.0
        saved.sae.W_enc[:, 5:10] *= 1e-3
        saved.sae.b_enc[5:10] = 1e-4  # above 0, and too small to be selected
        hidden_pre = saved.sae.hidden_pre(torch.from_numpy(saved.preprocess.apply(rows))).numpy()
    codes, x_hat = run(saved, rows)
    x = rows.astype(np.float64)
    found = measure(saved, ArrayRows(rows, block_rows=64))
    assert found.l0 == pytest.approx((codes != 0).sum(1).mean())
    assert found.mse == pytest.approx(np.square(x - x_hat).sum(1).mean(), rel=1e-6)
    assert found.variance_explained == pytest.approx(
        1 - np.square(x - x_hat).sum() / np.square(x - x.mean(0)).sum(), rel=1e-6
    )
    distances = np.square(x - geometric_median(x)).sum(1)
    fractions = np.square(x - x_hat).sum(1) / distances
    assert found.token_fvu_median == pytest.approx(np.median(fractions), rel=1e-5)
    assert found.token_fvu_mean == pytest.approx(fractions.mean(), rel=1e-5)
    if architecture == "abs_topk":
        hidden_pre = np.abs(hidden_pre)
    positive, fired = (hidden_pre > 0).any(0), (codes != 0).any(0)
    assert found.dead_relu == np.mean(~positive) >= 5 / 64
    assert found.dead_total == np.mean(~fired)
    assert found.dead_topk_only == np.mean(positive & ~fired)
    assert (found.dead_topk_only > 0) == (architecture != "relu")
    assert found.dead_relu + found.dead_topk_only == pytest.approx(found.dead_total)


def geometric_median(x: np.ndarray) -> np.ndarray:
    """Plain Weiszfeld steps."""
    center = x.mean(0)
    for _ in range(1000):
        weights = 1 / np.linalg.norm(x - center, axis=1)
        center = weights @ x / weights.sum()
    return center


def test_few_massive_tokens_are_warned_of(make: Any, rows: Any, caplog: pytest.LogCaptureFixture) -> None:
    saved = make("topk", "raw")
    with torch.no_grad():  # it predicts the center, and sees nothing but the massive tokens' dimension
        for weights in (saved.sae.W_enc, saved.sae.W_dec, saved.sae.b_enc):
            weights.zero_()
        saved.sae.W_enc[0, 0] = saved.sae.W_dec[0, 0] = 1
        saved.sae.b_enc.fill_(-1e3)
        saved.sae.b_dec.copy_(torch.from_numpy(geometric_median(rows.astype(np.float64))))
    found = measure(saved, ArrayRows(rows))
    assert (found.token_fvu_median, found.token_fvu_mean) == pytest.approx((1, 1), rel=1e-3)
    assert "few tokens" not in caplog.text
    massive = rows.copy()
    massive[:2, 0] += 1e6
    found = measure(saved, ArrayRows(massive))
    assert found.variance_explained > 0.99
    assert found.token_fvu_median == pytest.approx(1, rel=0.01)
    assert "array: variance explained is 1.000 over all tokens together and" in caplog.text


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_an_sae_that_outputs_the_mean_explains_nothing(size: float) -> None:
    """However large the mean is: about 0 this would be close to 1."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 8)) + size * rng.standard_normal(8)
    tensors = {"W_enc": torch.zeros(8, 16), "W_dec": torch.zeros(16, 8), "b_enc": torch.zeros(16)}
    sae = SAE("topk", {**tensors, "b_dec": torch.zeros(8)}, 2)
    found = measure(SavedSAE(sae, Preprocessing(x.mean(0)), {}), ArrayRows(x))
    assert found.variance_explained == pytest.approx(0, abs=1e-6)
    assert found.l0 == 0
    assert found.dead_relu == found.dead_total == 1


def test_blocks_and_offset_make_no_difference(make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = make("topk", "pca")
    whole = measure(saved, ArrayRows(rows))
    monkeypatch.setattr(saelib.evaluation.reconstruction, "AT_A_TIME", 7 * 64)
    shifted = ArrayRows(rows - rows[0])
    shifted.offset = rows[0]
    for other in (measure(saved, ArrayRows(rows)), measure(saved, shifted)):
        for name in ("l0", "mse", "variance_explained", "dead_relu", "dead_total"):
            assert getattr(other, name) == pytest.approx(getattr(whole, name), rel=1e-5)


def test_half_precision_rows(make: Any, rows: Any) -> None:
    """float16 holds these means, and not their squares."""
    half = rows.astype(np.float16)
    saved = make("topk", "center_mean")
    assert replace(measure(saved, ArrayRows(half))) == measure(saved, ArrayRows(half.astype(np.float64)))


def test_the_first_tokens(make: Any, rows: Any) -> None:
    saved = make("topk", "raw")
    for name in ("l0", "mse", "variance_explained", "dead_relu", "dead_total"):
        first = getattr(measure(saved, ArrayRows(rows), tokens=100), name)
        assert first == pytest.approx(getattr(measure(saved, ArrayRows(rows[:100])), name), rel=1e-9)
    assert measure(saved, ArrayRows(rows), tokens=10_000) == measure(saved, ArrayRows(rows))


@pytest.mark.parametrize("preprocessing", ["pca", "center_mean", "rescale"])
def test_bad_rows(preprocessing: str, make: Any, rows: Any) -> None:
    saved = make("topk", preprocessing)
    with pytest.raises(UserError, match="array: rows have 7 dimensions; the SAE reads 24"):
        measure(saved, ArrayRows(rows[:, :7]))
    spoilt = rows.copy()
    spoilt[150, 3] = np.inf
    with pytest.raises(UserError, match=r"array: .*not finite|array: the rows hold NaN or infinity"):
        measure(saved, ArrayRows(spoilt, block_rows=64))
    with pytest.raises(UserError, match=r"array: .*constant"):
        measure(saved, ArrayRows(np.repeat(rows[:1], 50, axis=0)))


def test_rows_spoilt_after_those_that_the_variance_is_taken_over(
    make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saelib.evaluation.space, "SCALE_ROWS", 100)
    spoilt = rows.copy()
    spoilt[150, 3] = np.nan
    with pytest.raises(UserError, match="array: the rows hold NaN or infinity"):
        measure(make("topk", "pca"), ArrayRows(spoilt, block_rows=64))
