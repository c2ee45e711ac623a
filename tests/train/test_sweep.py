"""The sweep: choice, divergence, sameness of bits, kills."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from saelib.config import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.preprocess import make_preprocess
from saelib.synthetic import sparse_features
from saelib.train import sweep
from saelib.train.rate import load_rate, train_rate

TrainOn = Callable[..., Path]
FILES = ("history.parquet", "sweep.json", "weights.safetensors")
SMALL = TrainConfig(
    d_sae=64, k=4, batch_size=256, steps=40, learning_rates=(1e-3, 1e-2), record_every=10, dead_after_examples=2_000
)


def toy(tokens: int = 2_000, gamma: float = 2.0, seed: int = 0) -> np.ndarray:
    return sparse_features(gamma, seed=7, d_in=16, n_features=32, active=3).sample(tokens, np.random.default_rng(seed))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_results_tell_the_whole_sweep(train_on: TrainOn):
    out = train_on(toy(), toy(seed=1), SMALL, VariantConfig(auxk=True))
    assert sorted(path.name for path in out.iterdir()) == list(FILES)
    found = json.loads((out / "sweep.json").read_text())
    assert (found["key"], found["model"], found["layer"], found["variant"]) == ("k1", "toy", 4, "test")
    assert (found["d_in"], found["d_sae"], found["k"], found["steps"], found["batch_size"]) == (16, 64, 4, 40, 256)
    runs = found["runs"]
    assert [(run["learning_rate"], run["status"]) for run in runs] == [(1e-3, "ok"), (1e-2, "ok")]
    assert found["best_learning_rate"] == min(runs, key=lambda run: run["normalized_mse"])["learning_rate"]
    history = pl.read_parquet(out / "history.parquet")
    assert history["step"].to_list() == [0, 10, 20, 30, 40] * 2
    assert history["examples"].to_list() == [0, 2560, 5120, 7680, 10240] * 2
    # Every rate starts from the same weights.
    first = history.filter(pl.col("step") == 0).drop("learning_rate")
    assert first.row(0) == first.row(1)


def test_training_learns(train_on: TrainOn):
    out = train_on(toy(), toy(seed=1), SMALL.model_copy(update={"steps": 200}), VariantConfig(preprocessing="pca"))
    history = pl.read_parquet(out / "history.parquet").filter(pl.col("learning_rate") == 1e-2)
    assert history["normalized_mse"][-1] < 0.5 * history["normalized_mse"][0]


def test_same_seed_same_bits_another_seed_others(train_on: TrainOn):
    def run(folder: str, seed: int) -> dict[str, bytes]:
        return contents(train_on(toy(), toy(seed=1), SMALL, VariantConfig(), folder=folder, seed=seed))

    first, again, other = run("a", 1), run("b", 1), run("c", 2)
    assert first == again
    assert all(first[name] != other[name] for name in FILES)


def test_pca_is_training_on_whitened_data(train_on: TrainOn, statistics: Callable[..., dict[str, np.ndarray]]):
    train, heldout = toy(), toy(seed=1)
    whiten = make_preprocess("pca", statistics(train)).apply
    pca = train_on(train, heldout, SMALL, VariantConfig(preprocessing="pca"), folder="pca")
    raw = train_on(whiten(train), whiten(heldout), SMALL, VariantConfig(), folder="raw")
    in_pca, in_raw = load_file(pca / "weights.safetensors"), load_file(raw / "weights.safetensors")
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        np.testing.assert_allclose(in_pca[name], in_raw[name], atol=1e-5)
    runs = [json.loads((out / "sweep.json").read_text())["runs"] for out in (pca, raw)]
    for with_pca, with_raw in zip(*runs, strict=True):
        assert with_pca["mse_trained"] == pytest.approx(with_raw["mse"], rel=1e-4)
        assert with_raw["mse"] == with_raw["mse_trained"]


def test_a_rate_that_diverges_is_reported_and_the_sweep_goes_on(train_on: TrainOn):
    config = SMALL.model_copy(update={"learning_rates": (1e8, 1e-3)})
    out = train_on(toy(), toy(seed=1), config, VariantConfig())
    found = json.loads((out / "sweep.json").read_text())
    assert found["runs"][0] == {"learning_rate": 1e8, "status": "diverged"}
    assert found["runs"][1]["status"] == "ok"
    assert found["best_learning_rate"] == 1e-3
    history = pl.read_parquet(out / "history.parquet")
    assert history.filter(pl.col("learning_rate") == 1e8)["step"].to_list() == [0, 10]  # it ends when it is seen


def test_rates_that_all_diverge_are_an_error_that_names_what_was_trained(train_on: TrainOn, tmp_path: Path):
    config = SMALL.model_copy(update={"learning_rates": (1e8, 1e9)})
    with pytest.raises(UserError, match=r"toy layer 4, variant test: training diverged.*1e\+08, 1e\+09"):
        train_on(toy(), toy(seed=1), config, VariantConfig())
    assert not (tmp_path / "out" / "sweep.json").exists()


def test_rows_without_variance_or_with_nan_are_refused(train_on: TrainOn):
    broken = toy()
    broken[5, 2] = np.nan
    for rows in (np.full((600, 16), 0.1, np.float32), broken):
        with pytest.raises(UserError, match=r"toy \(train\): .*constant or not finite"):
            train_on(rows, toy(seed=1), SMALL, VariantConfig(), arrays={"mean": np.zeros(16)})


def test_heldout_rows_that_cannot_be_measured_are_no_divergence(train_on: TrainOn):
    in_the_probe, after_it = toy(3_000), toy(3_000)
    in_the_probe[0, 2] = after_it[-1, 2] = np.inf
    for heldout in (in_the_probe, after_it, toy(1)):
        with pytest.raises(UserError, match=r"toy \(heldout\): .*constant or not finite"):
            train_on(toy(), heldout, SMALL, VariantConfig())


def test_results_of_another_key_are_ignored_and_removed(train_on: TrainOn, tmp_path: Path, monkeypatch):
    wanted = contents(train_on(toy(), toy(seed=1), SMALL, VariantConfig(), folder="fresh", key="new"))
    # A job with another key was killed after all its rates: one that is asked for again, one that is not, a draft.
    monkeypatch.setattr(sweep, "_publish", lambda *_: None)
    train_on(toy(seed=2), toy(seed=1), SMALL.model_copy(update={"learning_rates": (1e-3, 0.5)}), VariantConfig())
    monkeypatch.undo()
    rates = tmp_path / "out" / "rates"
    assert sorted(path.name for path in rates.iterdir()) == ["0.001.safetensors", "0.5.safetensors"]
    (rates / ".0.001.safetensors.aa.draft").write_bytes(b"half")
    out = train_on(toy(), toy(seed=1), SMALL, VariantConfig(), key="new")
    assert contents(out) == wanted
    assert sorted(path.name for path in out.iterdir()) == list(FILES)


def test_an_old_sweep_never_vouches_for_new_weights(train_on: TrainOn, monkeypatch: pytest.MonkeyPatch):
    out = train_on(toy(), toy(seed=1), SMALL, VariantConfig())

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(sweep, "write_json", full)
    with pytest.raises(OSError, match="disk full"):
        train_on(toy(), toy(seed=1), SMALL, VariantConfig(auxk=True), key="new")
    assert not (out / "sweep.json").exists()


CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from saelib.config import TrainConfig, VariantConfig
from saelib.rows import ArrayRows
from saelib.train import Subject, train_variant
from saelib.train.trainer import Trainer

steps, step = [], Trainer.step
def fatal_step(self, x):
    steps.append(1)
    if len(steps) == 65:  # in the middle of the second rate
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, x)
Trainer.step = fatal_step

folder = Path(sys.argv[1])
data = dict(np.load(folder / "data.npz"))
rows = [ArrayRows(data.pop(name), f"toy ({name})", block_rows=512) for name in ("train", "heldout")]
config = TrainConfig.model_validate_json(sys.argv[2])
train_variant(*rows, data, config, VariantConfig(auxk=True), output=folder / "out",
              key="k1", seed=3, subject=Subject("toy", 4, "test"), device="cpu")
"""


def test_a_killed_sweep_goes_on_and_ends_with_the_same_bits(
    train_on: TrainOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistics: Callable[..., dict[str, np.ndarray]]
):
    train, heldout = toy(), toy(seed=1)
    config = SMALL.model_copy(update={"learning_rates": (1e-3, 3e-3, 1e-2)})
    np.savez(tmp_path / "data.npz", train=train, heldout=heldout, **statistics(train))
    command = [sys.executable, "-c", CHILD, str(tmp_path), config.model_dump_json()]
    killed = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob("out/**/*.*")] == ["0.001.safetensors"]
    trained: list[float] = []

    def noted(setting, rate, report):
        trained.append(rate)
        return train_rate(setting, rate, report)

    monkeypatch.setattr(sweep, "train_rate", noted)
    resumed = contents(train_on(train, heldout, config, VariantConfig(auxk=True)))
    assert trained == [3e-3, 1e-2]
    assert resumed == contents(train_on(train, heldout, config, VariantConfig(auxk=True), folder="undisturbed"))


def test_a_torn_rate_file_counts_as_none(train_on: TrainOn, tmp_path: Path):
    train_on(toy(), toy(seed=1), SMALL, VariantConfig())
    whole = (tmp_path / "out" / "weights.safetensors").read_bytes()
    for torn in (b"", whole[: len(whole) // 2], whole):  # the last has no record of a rate
        (tmp_path / "rate").write_bytes(torn)
        assert load_rate(tmp_path / "rate", "k1") is None
    assert load_rate(tmp_path / "missing", "k1") is None


def test_no_heldout_rows_are_an_error(train_on: TrainOn):
    with pytest.raises(UserError, match=r"toy \(heldout\): no held-out tokens"):
        train_on(toy(), toy()[:0], SMALL, VariantConfig())


def mmcs(out: Path, features: np.ndarray) -> float:
    """Mean over true features of the largest cosine with a decoder row (paper, section 5)."""
    return float((features @ load_file(out / "weights.safetensors")["W_dec"].T).max(axis=1).mean())


def test_centring_revives_the_dead_at_initialisation_and_recovers_the_features(train_on: TrainOn):
    # The paper's synthetic data at gamma = 40 (v = 125).
    data = sparse_features(40, seed=0)
    rng = np.random.default_rng(1)
    train, heldout = data.sample(50_000, rng), data.sample(8_000, rng)
    config = TrainConfig(d_sae=100, k=5, batch_size=512, steps=1000, learning_rates=(1e-3,), record_every=500)

    def run(variant: VariantConfig, name: str) -> tuple[dict[str, float], float]:
        out = train_on(train, heldout, config, variant, folder=name)
        return pl.read_parquet(out / "history.parquet").row(0, named=True), mmcs(out, data.features)

    initial, recovered = run(VariantConfig(preprocessing="center_median"), "centred")
    baseline_initial, baseline_recovered = run(VariantConfig(), "baseline")
    assert initial["dead_relu"] == 0
    assert initial["dead_total"] < 0.02
    assert baseline_initial["dead_relu"] > 0.3
    assert recovered > baseline_recovered + 0.2
