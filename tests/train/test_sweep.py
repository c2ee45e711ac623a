"""The sweep: what it records, its choice, divergence, sameness of bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from saelib.config import TrainConfig, VariantConfig
from saelib.config.synthetic import SyntheticConfig
from saelib.errors import UserError
from saelib.preprocessing.fit import make_preprocessing
from saelib.sae.file import load_sae
from saelib.synthetic import make_data
from saelib.train import first_sae, publish

TrainOn = Callable[..., Path]
FILES = ("history.parquet", "sweep.json", "weights.safetensors")
SMALL = TrainConfig(
    d_sae=64, k=4, batch_size=256, steps=40, learning_rates=(1e-3, 1e-2), record_every=10, dead_after_examples=2_000
)


def toy(tokens: int = 2_000, gamma: float = 2.0, seed: int = 0) -> np.ndarray:
    return make_data(SyntheticConfig(gamma=gamma, d_in=16, n_features=32, active=3), seed=7).sample(
        tokens, np.random.default_rng(seed)
    )


def variant(**options: Any) -> VariantConfig:
    return VariantConfig.model_validate(options)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def history_of(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "history.parquet")


def sweep_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "sweep.json").read_text())


def test_results_tell_the_whole_sweep(train_on: TrainOn):
    out = train_on(toy(), toy(seed=1), SMALL, variant(dead_latents="auxk"))
    assert sorted(path.name for path in out.iterdir()) == list(FILES)
    found = sweep_of(out)
    assert (found["key"], found["model"], found["layer"], found["variant"]) == ("k1", "toy", 4, "test")
    assert (found["d_in"], found["d_sae"], found["k"], found["steps"], found["batch_size"]) == (16, 64, 4, 40, 256)
    assert (found["options"]["architecture"]["kind"], found["options"]["dead_latents"]["kind"]) == ("topk", "auxk")
    runs = found["runs"]
    assert [(run["learning_rate"], run["status"]) for run in runs] == [(1e-3, "ok"), (1e-2, "ok")]
    assert found["best_learning_rate"] == min(runs, key=lambda run: run["choosing_token_fvu_median"])["learning_rate"]
    assert (found["heldout_tokens"], found["choosing_tokens"], found["reported_tokens"]) == (2_000, 1_000, 1_000)
    history = history_of(out)
    assert history["step"].to_list() == [0, 10, 20, 30, 40] * 2
    assert history["examples"].to_list() == [0, 2560, 5120, 7680, 10240] * 2
    # Every rate starts from the same weights.
    first = history.filter(pl.col("step") == 0).drop("peak_learning_rate")
    assert first.row(0) == first.row(1)


def test_the_weights_are_those_of_the_best_rate_and_say_where_they_come_from(train_on: TrainOn):
    out = train_on(toy(), toy(seed=1), SMALL, variant(preprocessing="zscore"))
    saved, found = load_sae(out / "weights.safetensors"), sweep_of(out)
    best = next(run for run in found["runs"] if run["learning_rate"] == found["best_learning_rate"])
    assert saved.about["learning_rate"] == found["best_learning_rate"]
    assert saved.about["options"]["preprocessing"]["kind"] == "zscore"
    assert saved.about["mse"] == best["mse"]
    # What was saved turns activations into reconstructions as good as was measured.
    heldout = toy(seed=1)[1_000:]
    x_hat = saved.sae(saved_tensor(saved.preprocess.apply(heldout))).detach().numpy()
    restored = saved.preprocess.restore(x_hat, heldout)
    assert ((heldout - restored) ** 2).sum(1).mean() == pytest.approx(best["mse"], rel=1e-4)


def saved_tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(values)


def test_history_has_the_training_flags_once_they_can_be_raised(train_on: TrainOn):
    config = SMALL.model_copy(update={"dead_after_examples": 5_120, "learning_rates": (1e-3,)})
    history = history_of(train_on(toy(gamma=20), toy(gamma=20, seed=1), config, variant()))
    for name in ("dead_relu", "dead_topk_only", "dead_total"):
        assert history[name].is_null().to_list() == [True, True, False, False, False]
        assert not history[f"probe_{name}"].has_nulls()
    late = history[2:]
    assert late["dead_total"].to_list() == pytest.approx((late["dead_relu"] + late["dead_topk_only"]).to_list())
    # All training tokens are seen within the flag's window, the held-out ones come from the same distribution.
    assert history["dead_relu"][-1] == pytest.approx(history["probe_dead_relu"][-1], abs=0.1)
    assert history["dead_relu"][-1] > 0.3


def test_history_follows_the_schedule_and_the_gradients(train_on: TrainOn):
    options = variant(schedule={"warmup": 0.5, "decay_from": 0.5}, learning_rates=[1e-3])
    history = history_of(train_on(toy(), toy(seed=1), SMALL, options))
    assert history["peak_learning_rate"].to_list() == [1e-3] * 5  # the variant's own
    assert history["learning_rate"].to_list() == pytest.approx([None, 5e-4, 1e-3, 11e-3 / 21, 1e-3 / 21])
    assert history["grad_norm_W"].is_null().to_list() == [True, False, False, False, False]
    assert (history["grad_norm_W"][1:] > 0).all()
    assert (history["grad_norm_b_dec"][1:] > 0).all()
    frozen = history_of(train_on(toy(), toy(seed=1), SMALL, variant(frozen="features"), folder="frozen"))
    assert (frozen["feature_capture"] != frozen["feature_capture"][0]).any()  # codes follow the bias
    assert frozen["bias_capture"].to_list()[:5] == sorted(frozen["bias_capture"].to_list()[:5])


def test_training_learns(train_on: TrainOn):
    out = train_on(toy(), toy(seed=1), SMALL.model_copy(update={"steps": 200}), variant(preprocessing="pca"))
    history = history_of(out).filter(pl.col("peak_learning_rate") == 1e-2)
    assert history["normalized_mse"][-1] < 0.5 * history["normalized_mse"][0]


def test_same_seed_same_bits_another_seed_others(train_on: TrainOn):
    def run(folder: str, seed: int) -> dict[str, bytes]:
        return contents(train_on(toy(), toy(seed=1), SMALL, variant(), folder=folder, seed=seed))

    first, again, other = run("a", 1), run("b", 1), run("c", 2)
    assert first == again
    assert all(first[name] != other[name] for name in FILES)


def test_batches_follow_the_seed_as_the_weights_do(train_on: TrainOn, monkeypatch: pytest.MonkeyPatch):
    initial = first_sae.initial_sae
    monkeypatch.setattr(first_sae, "initial_sae", lambda *args, **options: initial(*args, **options | {"seed": 0}))
    runs = [history_of(train_on(toy(), toy(seed=1), SMALL, variant(), folder=str(seed), seed=seed)) for seed in (1, 2)]
    same_start, other_end = (runs[0].row(step) == runs[1].row(step) for step in (0, 4))
    assert same_start
    assert not other_end


def test_every_rate_sees_the_batches_that_it_would_see_alone(train_on: TrainOn):
    together = history_of(train_on(toy(), toy(seed=1), SMALL, variant(), folder="together"))
    for rate in SMALL.learning_rates:
        config = SMALL.model_copy(update={"learning_rates": (rate,)})
        alone = history_of(train_on(toy(), toy(seed=1), config, variant(), folder=f"{rate}"))
        assert alone.equals(together.filter(pl.col("peak_learning_rate") == rate))


def test_pca_is_training_on_whitened_data(train_on: TrainOn, statistics: Callable[..., dict[str, np.ndarray]]):
    train, heldout = toy(), toy(seed=1)
    whiten = make_preprocessing("pca", statistics(train)).apply
    pca = train_on(train, heldout, SMALL, variant(preprocessing="pca"), folder="pca")
    raw = train_on(whiten(train), whiten(heldout), SMALL, variant(), folder="raw")
    in_pca, in_raw = load_file(pca / "weights.safetensors"), load_file(raw / "weights.safetensors")
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        np.testing.assert_allclose(in_pca[name], in_raw[name], atol=1e-5)
    for with_pca, with_raw in zip(sweep_of(pca)["runs"], sweep_of(raw)["runs"], strict=True):
        assert with_pca["mse_trained"] == pytest.approx(with_raw["mse"], rel=1e-4)
        assert with_raw["mse"] == with_raw["mse_trained"]


def test_a_subspace_and_a_firing_rate_shape_the_start(train_on: TrainOn):
    config = SMALL.model_copy(update={"steps": 1, "learning_rates": (1e-9,)})
    options = variant(
        preprocessing={"kind": "active_subspace", "rank": 3}, init={"firing_rate": 0.25}, optimizer="sign_sgd"
    )
    weights = load_file(train_on(toy(), toy(seed=1), config, options) / "weights.safetensors")
    assert np.linalg.matrix_rank(weights["W_dec"], tol=1e-3) == 3
    pre = (toy(seed=1) - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    assert (pre > 0).mean() == pytest.approx(0.25, abs=0.03)


def test_a_rate_that_diverges_is_reported_and_the_sweep_goes_on(train_on: TrainOn):
    config = SMALL.model_copy(update={"learning_rates": (1e8, 1e-3)})
    out = train_on(toy(), toy(seed=1), config, variant())
    found = sweep_of(out)
    assert found["runs"][0] == {"learning_rate": 1e8, "status": "diverged"}
    assert found["runs"][1]["status"] == "ok"
    assert found["best_learning_rate"] == 1e-3
    history = history_of(out)
    assert history.filter(pl.col("peak_learning_rate") == 1e8)["step"].to_list() == [0, 10]  # it ends when it is seen
    # The others train as if it had never been there.
    alone = train_on(toy(), toy(seed=1), SMALL.model_copy(update={"learning_rates": (1e-3,)}), variant(), folder="x")
    assert history_of(alone).equals(history.filter(pl.col("peak_learning_rate") == 1e-3))


def test_rates_that_all_diverge_are_an_error_that_names_what_was_trained(train_on: TrainOn, tmp_path: Path):
    config = SMALL.model_copy(update={"learning_rates": (1e8, 1e9)})
    with pytest.raises(UserError, match=r"toy layer 4, variant test: training diverged.*1e\+08, 1e\+09"):
        train_on(toy(), toy(seed=1), config, variant())
    assert not (tmp_path / "out" / "sweep.json").exists()


def test_rows_without_variance_or_with_nan_are_refused(train_on: TrainOn):
    broken = toy()
    broken[5, 2] = np.nan
    for rows in (np.full((600, 16), 0.1, np.float32), broken):
        with pytest.raises(UserError, match=r"toy \(train\): .*constant or not finite"):
            train_on(rows, toy(seed=1), SMALL, variant(), arrays={"mean": np.zeros(16)})


def test_heldout_rows_that_cannot_be_measured_are_no_divergence(train_on: TrainOn):
    in_the_probe, after_it = toy(3_000), toy(3_000)
    in_the_probe[0, 2] = after_it[-1, 2] = np.inf
    constants = [np.full((tokens, 16), value, np.float32) for tokens, value in ((4, 1), (7, 0.3), (900, 77.7))]
    for number, heldout in enumerate((in_the_probe, after_it, *constants)):
        with pytest.raises(UserError, match=r"toy \(heldout\): .*constant or not finite"):
            train_on(toy(), heldout, SMALL, variant(), folder=str(number))


def test_too_few_tokens_to_whiten_by_are_an_error_that_names_the_layer(train_on: TrainOn):
    config = SMALL.model_copy(update={"batch_size": 8})
    with pytest.raises(UserError, match=r"toy layer 4, variant test: .*'pca': 16 training tokens .* needs 17"):
        train_on(toy(16), toy(seed=1), config, variant(preprocessing="pca"))


def test_no_heldout_rows_are_an_error(train_on: TrainOn):
    for rows in (0, 1):
        with pytest.raises(UserError, match=rf"toy \(heldout\): {rows} held-out tokens; at least 2 are needed"):
            train_on(toy(), toy()[:rows], SMALL, variant())


def test_an_old_sweep_never_vouches_for_new_weights(train_on: TrainOn, monkeypatch: pytest.MonkeyPatch):
    out = train_on(toy(), toy(seed=1), SMALL, variant())

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(publish, "write_result", full)
    with pytest.raises(OSError, match="disk full"):
        train_on(toy(), toy(seed=1), SMALL, variant(dead_latents="auxk"), key="new")
    assert not (out / "sweep.json").exists()


def test_the_reported_half_has_no_say_in_the_choice(train_on: TrainOn):
    """Whatever the reported rows are, the same rate is chosen; whatever the others are, a rate's figures stay."""
    examples = np.repeat([0, 1], 1_000)
    plain, inverted = toy(seed=1), toy(seed=1)
    inverted[1_000:] *= -3
    config = SMALL.model_copy(update={"learning_rates": (1e-4, 1e-3, 1e-2)})

    def run(heldout: np.ndarray, folder: str) -> dict[str, Any]:
        return sweep_of(train_on(toy(), heldout, config, variant(), folder=folder, heldout_examples=examples))

    first, other, swapped = run(plain, "a"), run(inverted, "b"), run(np.r_[-5 * plain[:1_000], plain[1_000:]], "c")
    assert [r["choosing_token_fvu_median"] for r in first["runs"]] == [
        r["choosing_token_fvu_median"] for r in other["runs"]
    ]
    assert first["best_learning_rate"] == other["best_learning_rate"]
    assert first["runs"][0]["mse"] != other["runs"][0]["mse"]
    for name in ("mse", "variance_explained", "token_fvu_median", "dead_total", "l0"):
        assert [r[name] for r in first["runs"]] == [r[name] for r in swapped["runs"]]


def test_massive_tokens_do_not_choose_the_rate(train_on: TrainOn):
    """They hold nearly all variance, so the least error would be theirs; the typical token's FVU decides."""
    train, heldout = toy(4_000), toy(seed=1)
    train[::200, 0] += 2_000
    heldout[::100, 0] += 2_000
    config = SMALL.model_copy(update={"steps": 60, "learning_rates": (1e-2, 3e-2, 0.1)})
    found = sweep_of(train_on(train, heldout, config, variant()))
    best = {
        name: min(found["runs"], key=lambda run: run[name])["learning_rate"] for name in ("mse", "token_fvu_median")
    }
    assert found["best_learning_rate"] == best["token_fvu_median"] != best["mse"]


def test_a_best_rate_at_an_end_is_written_and_warned_of(train_on: TrainOn, caplog: pytest.LogCaptureFixture):
    config = SMALL.model_copy(update={"learning_rates": (1e-6, 1e-5)})
    found = sweep_of(train_on(toy(), toy(seed=1), config, variant()))
    assert found["learning_rate_at_end"] == "high"
    assert "toy layer 4, variant test: the best learning rate, 1e-05, is the highest of those tried" in caplog.text
    caplog.clear()
    found = sweep_of(train_on(toy(), toy(seed=1), SMALL.model_copy(update={"learning_rates": (1e-3,)}), variant()))
    assert found["learning_rate_at_end"] == "only"
    assert "learning rate" not in caplog.text


def mmcs(out: Path, features: np.ndarray) -> float:
    """Mean over true features of the largest cosine with a decoder row (paper, section 5)."""
    return float((features @ load_file(out / "weights.safetensors")["W_dec"].T).max(axis=1).mean())


def test_centering_revives_the_dead_at_initialization_and_recovers_the_features(train_on: TrainOn):
    # The paper's synthetic data at gamma = 40 (v = 125).
    data = make_data(SyntheticConfig(gamma=40), seed=0)
    rng = np.random.default_rng(1)
    train, heldout = data.sample(50_000, rng), data.sample(8_000, rng)
    config = TrainConfig(d_sae=100, k=5, batch_size=512, steps=1000, learning_rates=(1e-3,), record_every=500)

    def run(options: VariantConfig, name: str) -> tuple[dict[str, float], float]:
        out = train_on(train, heldout, config, options, folder=name)
        return history_of(out).row(0, named=True), mmcs(out, data.features)

    initial, recovered = run(variant(preprocessing="center_median"), "centered")
    baseline_initial, baseline_recovered = run(variant(), "baseline")
    assert initial["probe_dead_relu"] == 0
    assert initial["probe_dead_total"] < 0.02
    assert baseline_initial["probe_dead_relu"] > 0.3
    assert recovered > baseline_recovered + 0.2
