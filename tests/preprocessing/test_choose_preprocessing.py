"""The paper's rule: effective rank first, then predicted death."""

from typing import Any

import numpy as np
import pytest

from saelib.activations.rows import ArrayRows
from saelib.preprocessing.choose import choose_preprocessing
from saelib.preprocessing.recommend import Recommendation
from saelib.stats import compute_stats
from saelib.theory import closed_forms


def choice(scale: np.ndarray, offset: float, **options: Any) -> Recommendation:
    """Statistics of Gaussian activations with these standard deviations and a mean `offset` in one dimension."""
    x = np.random.default_rng(0).standard_normal((2_000, len(scale))) * scale
    x[:, 0] += offset
    arguments = {"d_sae": 8192, "k": 64, "tokens": 100_000} | options
    return choose_preprocessing(compute_stats(ArrayRows(x.astype(np.float32))), **arguments)


FLAT = np.ones(100)
LOW_RANK = np.r_[10.0, np.full(99, 1e-3)]


@pytest.mark.parametrize(
    ("scale", "offset", "kind", "said"),
    [
        (FLAT, 0.0, "raw", "predicts 0% dead at initialization, no more than 1%"),
        (FLAT, 30.0, "center_median", "more than 1%"),
        (LOW_RANK, 0.0, "pca", "of 100 (1.0"),
        (LOW_RANK, 2.0, "pca", "is below 2%"),
    ],
)
def test_each_case_has_its_preprocessing_and_a_sentence(scale: np.ndarray, offset: float, kind: str, said: str) -> None:
    found = choice(scale, offset)
    assert found.preprocessing == kind
    assert said in found.reason
    assert found.reason.endswith(".")
    assert found.reason.count(". ") == 0


def test_the_border_is_where_the_closed_form_predicts_one_percent() -> None:
    gammas = np.linspace(0.3, 1.2, 181)
    border = gammas[np.argmax(closed_forms.dead_total(gammas, 8192, 64, 100_000) > 0.01)]
    kinds = [choice(FLAT, 10 * gamma).preprocessing for gamma in (0.95 * border, 1.05 * border)]
    assert kinds == ["raw", "center_median"]


def test_a_mean_along_the_ones_which_layernorm_removes_asks_for_centering() -> None:
    x = np.random.default_rng(0).standard_normal((2_000, 64)) + 1.0
    stats = compute_stats(ArrayRows(x.astype(np.float32)))
    assert stats.gamma < 0.1
    found = choose_preprocessing(stats, 2048, 64, 8192)
    assert found.preprocessing == "center_median"
    assert "gamma_unit = 1" in found.reason


def test_more_latents_to_a_selection_ask_for_centering_sooner() -> None:
    assert choice(FLAT, 10.0, d_sae=64).preprocessing == "raw"
    assert choice(FLAT, 10.0, d_sae=8192).preprocessing == "center_median"
    assert choice(FLAT, 10.0, tokens=100).preprocessing == "center_median"
