"""The loop by itself: no files, no measures, batches and observers made up here."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from saelib.activations.rows import ArrayRows
from saelib.config import TrainConfig, VariantConfig
from saelib.train import sweep as sweep_module
from saelib.train.batches_from_model import START, Position
from saelib.train.loop import train_sweeps
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import RunningSweep, Subject

CONFIG = TrainConfig(d_sae=32, k=3, batch_size=64, steps=6, learning_rates=(1e-3, 1e-2))
ROWS = np.random.default_rng(0).standard_normal((6 * 64, 8)).astype(np.float32)


class Numbered:
    """Rows of a batch, at a position that tells its number."""

    def __init__(self, number: int) -> None:
        self.position = Position(batch=number)
        self.x = torch.from_numpy(ROWS[(number - 1) * 64 : number * 64])
        self.on: dict[str, Tensor] = {}

    def read_by(self, sweep: RunningSweep) -> Tensor:
        return self.on.setdefault(sweep.space.device, self.x.to(sweep.space.device))


class Noted:
    """Notes the steps of the sweeps that it observes, by the name of their variant."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, Position]] = []

    def observe(self, sweep: RunningSweep) -> None:
        self.seen.append((sweep.subject.variant, sweep.steps_done, sweep.position))


def batches(first: int, last: int) -> Iterator[Numbered]:
    return map(Numbered, range(first, last + 1))


@pytest.fixture
def make(statistics: Callable[[np.ndarray], dict[str, np.ndarray]], device: str) -> Callable[[str], RunningSweep]:
    data = LayerData(ArrayRows(ROWS, "train"), ArrayRows(ROWS, "heldout"), statistics(ROWS))
    return lambda name: start_sweep(
        data, CONFIG, VariantConfig(), subject=Subject("toy", 1, name), seed=0, device=device
    )


def weights(sweep: RunningSweep) -> list[Tensor]:
    return [value.clone() for run in sweep.runs for value in run.trainer.state_dict().values()]


def test_observers_are_called_after_every_step_and_nothing_is_drawn_behind_the_last(make):
    sweep, noted, stream = make("one"), Noted(), batches(1, 6)
    assert (sweep.steps_done, sweep.position) == (0, START)
    train_sweeps({sweep: [noted]}, stream, 0)
    assert noted.seen == [("one", step, Position(batch=step)) for step in range(1, 7)]
    assert sweep.is_over
    assert next(stream, None) is None


def test_a_sweep_that_is_ahead_joins_in_where_it_stands_and_ends_with_the_same_bits(make):
    whole, ahead, behind, noted = make("whole"), make("ahead"), make("behind"), Noted()
    train_sweeps({whole: []}, batches(1, 6), 0)
    train_sweeps({ahead: []}, batches(1, 4), 0)
    train_sweeps({behind: []}, batches(1, 2), 0)
    assert [sweep.steps_done for sweep in (whole, ahead, behind)] == [6, 4, 2]
    train_sweeps({whole: [noted], ahead: [noted], behind: [noted]}, batches(3, 6), 2)
    assert [(name, step) for name, step, _ in noted.seen] == [
        ("behind", 3),
        ("behind", 4),
        ("ahead", 5),
        ("behind", 5),
        ("ahead", 6),
        ("behind", 6),
    ]
    for sweep in (ahead, behind):
        assert all(torch.equal(*pair) for pair in zip(weights(whole), weights(sweep), strict=True))


def test_a_run_that_diverged_stays_as_it_is_and_a_sweep_without_any_other_is_over(make):
    sweep = make("one")
    sweep.runs[0].status = "diverged"
    before = weights(sweep)
    train_sweeps({sweep: []}, batches(1, 2), 0)
    assert [run.trainer.steps_done for run in sweep.runs] == [0, 2]
    half = len(before) // 2
    assert all(torch.equal(*pair) for pair in zip(before[:half], weights(sweep)[:half], strict=True))
    sweep.runs[1].status = "diverged"
    assert sweep.is_over
    train_sweeps({sweep: []}, batches(3, 6), 2)
    assert sweep.steps_done == 2


def test_sweeps_that_read_the_same_rows_step_together_and_end_with_the_bits_of_each_alone(make, monkeypatch):
    called: list[int] = []
    step_all = sweep_module.step_all

    def counted(trainers, *rest):
        called.append(len(trainers))
        step_all(trainers, *rest)

    class Own(Numbered):
        def read_by(self, sweep: RunningSweep) -> Tensor:
            return super().read_by(sweep).clone()

    monkeypatch.setattr(sweep_module, "step_all", counted)
    together, apart = [make("a"), make("b"), make("c")], [make("a"), make("b"), make("c")]
    together[1].runs[0].status = apart[1].runs[0].status = "diverged"
    train_sweeps({sweep: [] for sweep in together}, batches(1, 6), 0)
    assert called == [5] * 6
    called.clear()
    train_sweeps({sweep: [] for sweep in apart}, map(Own, range(1, 7)), 0)
    assert called == [2, 1, 2] * 6
    for one, other in zip(together, apart, strict=True):
        assert all(torch.equal(*pair) for pair in zip(weights(one), weights(other), strict=True))
