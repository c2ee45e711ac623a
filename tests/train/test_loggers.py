"""Rows in TensorBoard, trackio and wandb: complete, once each, also after a kill."""

import importlib.util
import sys
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from saelib.config import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.train import loggers, sweep

TrainOn = Callable[..., Path]
CONFIG = TrainConfig(
    d_sae=16, k=2, batch_size=64, steps=12, learning_rates=(1e-3, 1e-2), record_every=4, checkpoint_every=5
)
ROWS = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)


class Interrupted(Exception):
    pass


@pytest.fixture
def train(train_on: TrainOn, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Train with a log, stop at step 10, and go on; gives the results' folder."""

    def run(kind: str) -> Path:
        config = CONFIG.model_copy(update={"log_to": kind})
        step_all = sweep.step_all

        def stop(trainers: Any, batch: Any, *rest: Any) -> None:
            if trainers[0].steps_done == 9:
                raise Interrupted
            step_all(trainers, batch, *rest)

        monkeypatch.setattr(sweep, "step_all", stop)
        with pytest.raises(Interrupted):
            train_on(ROWS, ROWS, config, VariantConfig())
        monkeypatch.setattr(sweep, "step_all", step_all)
        return train_on(ROWS, ROWS, config, VariantConfig())

    return run


def history_of(out: Path) -> dict[tuple[float, int], dict[str, float]]:
    """Figures by learning rate and step."""
    rows = pl.read_parquet(out / "history.parquet").to_dicts()
    return {(row["peak_learning_rate"], row["step"]): loggers._figures(row) for row in rows}


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_holds_every_row_once(train: Callable[[str], Path]):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # pyright: ignore

    out = train("tensorboard")
    found: dict[tuple[float, int], dict[str, float]] = defaultdict(dict)
    for rate in CONFIG.learning_rates:
        (file,) = (out / "log" / f"rate_{rate:g}").iterdir()
        events = EventAccumulator(str(file), {"scalars": 0}).Reload()
        for name in events.Tags()["scalars"]:
            for event in events.Scalars(name):
                assert name not in found[rate, event.step]
                found[rate, event.step][name] = event.value
    expected = history_of(out)
    assert found.keys() == expected.keys()
    for place, figures in expected.items():
        assert found[place] == pytest.approx(figures, rel=1e-6)


class FakeRun:
    def __init__(self, store: list[Any], name: str) -> None:
        self.store, self.name, self.rows, self.finished = store, name, [], False
        store.append(self)

    def log(self, figures: dict[str, float], step: int) -> None:
        assert not self.finished
        self.rows.append((step, figures))

    def finish(self) -> None:
        self.finished = True

    def delete(self) -> None:
        self.store.remove(self)


def assert_complete(run: FakeRun, out: Path) -> None:
    assert run.finished
    assert [step for step, _ in run.rows] == [0, 4, 8, 12]
    expected = history_of(out)
    for step, figures in run.rows:
        assert figures == {
            f"rate {rate:g}/{name}": value
            for rate in CONFIG.learning_rates
            for name, value in expected[rate, step].items()
        }


def test_trackio_gets_every_row_once(train: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch):
    runs: list[FakeRun] = []

    def found(project: str) -> list[FakeRun]:
        if not runs:
            raise ValueError(f"Project '{project}' does not exist")
        return list(runs)

    fake = types.ModuleType("trackio")
    fake.Api = lambda: types.SimpleNamespace(runs=found)  # type: ignore[attr-defined]
    fake.init = lambda project, name, config, embed: FakeRun(runs, name)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", fake)
    out = train("trackio")
    assert [run.name for run in runs] == ["toy layer 4, variant test"]
    assert_complete(runs[0], out)


def test_wandb_gets_every_row_under_one_id(train: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch):
    runs: list[FakeRun] = []
    asked: list[dict[str, Any]] = []
    fake = types.ModuleType("wandb")

    def init(**options: Any) -> FakeRun:
        asked.append(options)
        return FakeRun(runs, options["name"])

    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    out = train("wandb")
    assert [(options["id"], options["resume"]) for options in asked] == [("k1", "allow")] * 2
    assert all(options["dir"] == str(out / "log") for options in asked)
    assert asked[0]["config"]["options"]["architecture"] == {"kind": "topk"}
    assert_complete(runs[-1], out)


def test_sweeps_of_one_process_have_a_run_of_wandb_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs: list[FakeRun] = []
    fake = types.ModuleType("wandb")

    def init(**options: Any) -> FakeRun:  # as the real one: a plain second call gives the first run again
        return FakeRun(runs, options["name"]) if options.get("reinit") == "create_new" or not runs else runs[0]

    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with (
        loggers.open_log("wandb", tmp_path / "a", "a", "a1", {}) as first,
        loggers.open_log("wandb", tmp_path / "b", "b", "b1", {}) as second,
    ):
        first.write([{"peak_learning_rate": 1e-3, "step": 0, "mse": 1.0}])
        second.write([{"peak_learning_rate": 1e-3, "step": 0, "mse": 2.0}])
    assert [[figures for _, figures in run.rows] for run in runs] == [[{"rate 0.001/mse": mse}] for mse in (1.0, 2.0)]


@pytest.mark.parametrize("kind", ["tensorboard", "trackio", "wandb"])
def test_a_package_that_is_missing_is_named_before_any_work(
    train_on: TrainOn, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, kind, None)
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", f"{kind}."))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=rf"train\.log_to: '{kind}' is not installed.*pip install {kind}"):
        train_on(ROWS, ROWS, CONFIG.model_copy(update={"log_to": kind}), VariantConfig())
    assert not list(tmp_path.glob("out/*"))
