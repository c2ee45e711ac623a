"""`auto`: the preprocessing that predicted death asks for, or the one of the paper's rule, and what makes it stale."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import saelib.extract.stage
import saelib.stats.stage
import saelib.train.measured_rule
import saelib.train.stage
from saelib.activations.rows import ArrayRows
from saelib.config import Config, TrainConfig, VariantConfig
from saelib.config.load import check_config
from saelib.init_death.measure import measure
from saelib.pipeline.plan import make_plan
from saelib.pipeline.targets import wanted_targets
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.recommend import ORDER, MeasuredDeath, Recommendation, recommend
from saelib.stats import compute_stats
from saelib.train.result import load_sweep
from saelib.train.rules import choose
from saelib.train.start import LayerData
from saelib.train.sweep import Subject

STAGES = {"extract": saelib.extract.stage.run, "stats": saelib.stats.stage.run, "train": saelib.train.stage.run}
D, TOKENS = 96, 6000
D_SAE, K = 768, 8
PAPER = {"kind": "auto", "rule": "paper"}


def three_directions() -> np.ndarray:
    """Three directions hold all the variance, about no mean: gamma is 0, and the effective rank is above 2 % of 96."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((D, 3)))[0]
    small = 0.02 * rng.standard_normal((TOKENS, D))
    return (3 * rng.standard_normal((TOKENS, 3)) @ basis.T + small).astype(np.float32)


def far_mean() -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((TOKENS, D)) + 3).astype(np.float32)


def ordinary() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((TOKENS, D)).astype(np.float32)


def chosen(
    x: np.ndarray, preprocessing: Any, d_sae: int = D_SAE, k: int = K, architecture: str = "topk", seed: int = 0
) -> Recommendation:
    train = ArrayRows(x[:-1000])
    stats = compute_stats(train)
    variant = VariantConfig.model_validate({"preprocessing": preprocessing, "architecture": architecture})
    data = LayerData(train, ArrayRows(x[-1000:]), stats.arrays)
    found = choose(data, stats, TrainConfig(d_sae=d_sae, k=k), variant, Subject("toy", 1, "v"), seed)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("x", "measured", "paper"),
    [
        (three_directions(), "pca", "raw"),
        (far_mean(), "center_median", "center_median"),
        (ordinary(), "raw", "raw"),
    ],
)
def test_each_rule_has_its_choice(x: np.ndarray, measured: str, paper: str) -> None:
    assert chosen(x, "auto").preprocessing == measured
    assert chosen(x, PAPER).preprocessing == paper


@pytest.mark.parametrize("make", [three_directions, far_mean, ordinary])
def test_the_choice_is_what_counting_recommends(make: Any) -> None:
    x = make()[:-1000]
    arrays = compute_stats(ArrayRows(x)).arrays
    fitted = {name: make_preprocessing(name, arrays) for name in ("raw", "center_median", "pca")}
    counted = measure(ArrayRows(x), fitted, D_SAE, K, range(3))
    rates = {name: counted[name].dead_total for name in ORDER}
    expected = recommend({name: MeasuredDeath(rate.mean, rate.sd, 3) for name, rate in rates.items()})
    assert expected is not None
    assert chosen(make(), "auto").preprocessing == expected.preprocessing


def test_d_sae_and_k_of_the_training_decide() -> None:
    assert chosen(three_directions(), "auto", d_sae=64, k=32).preprocessing == "raw"
    assert chosen(three_directions(), "auto", d_sae=768, k=8).preprocessing == "pca"


def test_relu_selects_what_topk_passes_over() -> None:
    assert chosen(three_directions(), "auto", architecture="relu").preprocessing == "raw"
    assert chosen(three_directions(), "auto", architecture="batch_topk").preprocessing == "pca"


def test_long_tokens_take_the_places_of_a_batch_from_short_ones() -> None:
    x = ordinary()
    x[::2] = 30 * three_directions()[::2]
    assert chosen(x, "auto").preprocessing == "raw"  # each short token selects its own k
    assert chosen(x, "auto", architecture="batch_topk").preprocessing == "pca"


def test_the_reason_says_for_what_and_from_what() -> None:
    reason = chosen(three_directions(), "auto").reason
    assert reason.startswith("Predicted for d_sae = 768 and k = 8 from 5,000 training tokens. With PCA whitening, ")


def test_too_few_rows_for_a_covariance_leave_whitening_out() -> None:
    found = chosen(three_directions()[: 1000 + D], "auto")
    assert found.preprocessing in ("raw", "center_median")


def test_a_single_direction_leaves_nothing_to_whiten() -> None:
    line = np.random.default_rng(2).standard_normal((TOKENS, 1)) * np.ones(D)
    assert chosen(line.astype(np.float32), "auto").preprocessing in ("raw", "center_median")


def test_death_within_the_noise_of_a_small_dictionary_is_accepted() -> None:
    """Of 64 latents 3 % are 2: a standard deviation of 2 points that a few thousand probes do not have."""
    found = chosen(ordinary() + np.float32(0.9), "auto", d_sae=64, k=4)
    assert found.preprocessing == "raw"
    assert "(within noise of 1%)" in found.reason


def test_the_seed_draws_the_probes() -> None:
    first, again, other = (chosen(three_directions(), "auto", seed=seed).reason for seed in (0, 0, 1))
    assert first == again != other


def test_many_rows_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saelib.train.measured_rule, "MOST_TOKENS", 2048)
    assert "from 2,048 training tokens" in chosen(three_directions(), "auto").reason


def test_a_preprocessing_by_name_is_not_chosen() -> None:
    x = ArrayRows(ordinary())
    stats = compute_stats(x)
    data = LayerData(x, x, stats.arrays)
    assert choose(data, stats, TrainConfig(), VariantConfig(), Subject("toy", 1, "v"), 0) is None


def suite(folder: Path, **train: Any) -> Config:
    np.save(folder / "layer_1.npy", three_directions())
    model = {"domain": "d", "license": "none", "notes": "made up", "layers": "1", "representative_layer": 1}
    source = {"family": "arrays", "files": {1: str(folder / "layer_1.npy")}}
    options = {"d_sae": D_SAE, "k": K, "steps": 2, "batch_size": 64, "learning_rates": [1e-3], "record_every": 2}
    variants = {"plain": {}, "auto": {"preprocessing": "auto"}, "paper": {"preprocessing": PAPER}}
    return check_config(
        {
            "results": str(folder / "results"),
            "models": {"toy": model | {"source": source}},
            "extraction": {"tokens": 4000, "heldout_tokens": 1000, "chunk_rows": 500},
            "train": options | {"variants": variants} | train,
        },
        "suite",
    )


def test_the_sweep_quotes_the_choice_and_its_reason(tmp_path: Path) -> None:
    config = suite(tmp_path)
    for job in make_plan(config).jobs.values():
        if job.stage in STAGES:
            STAGES[job.stage](config, job)
    found = {name: load_sweep(config.train_path("toy", 1, name) / "sweep.json") for name in config.train.variants}
    kinds = {name: sweep.options.preprocessing.kind for name, sweep in found.items()}
    assert kinds == {"plain": "raw", "auto": "pca", "paper": "raw"}
    assert found["plain"].preprocessing_reason is None
    assert "from 4,000 training tokens. With PCA whitening" in (found["auto"].preprocessing_reason or "")
    assert "gamma_unit = " in (found["paper"].preprocessing_reason or "")


def test_a_training_depends_on_the_code_of_its_own_rule(tmp_path: Path) -> None:
    code = {t.variant: set(t.made_from.code) for t in wanted_targets(suite(tmp_path)) if t.stage == "train"}
    probes, theory = "saelib.init_death.probes", "saelib.theory.closed_forms"
    assert {name: probes in modules for name, modules in code.items()} == {"plain": False, "auto": True, "paper": False}
    assert theory in code["paper"]
    assert theory not in code["plain"]


def test_another_rule_makes_a_training_stale(tmp_path: Path) -> None:
    def keys(preprocessing: Any) -> list[str]:
        variants = {"v": {"preprocessing": preprocessing}}
        return [t.key for t in wanted_targets(suite(tmp_path, variants=variants)) if t.stage == "train"]

    assert keys("auto") == keys({"kind": "auto", "rule": "measured"})
    assert keys("auto") != keys(PAPER)
