"""When a step is captured, and what is replayed; graphs themselves need a GPU."""

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from saelib.sae.gpu import graph
from saelib.sae.gpu.graph import WARM_UP, Replayed


class Recorder:
    """Stands for `torch.cuda.CUDAGraph`: replays what was called between the two ends of the capture."""

    def replay(self) -> None:
        self.work()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Notes the sums of the batches that are worked on, and how."""
    found: list[tuple[int, str]] = []
    capturing: list[Recorder] = []

    @contextmanager
    def capture(recorder: Recorder):
        capturing.append(recorder)
        yield
        capturing.clear()

    def work(x: Tensor) -> None:
        if capturing:
            capturing[0].work = lambda: found.append((int(x.sum()), "replayed"))
        else:
            found.append((int(x.sum()), "called"))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(graph, "on_gpu", lambda x: True)
    found.append((0, ""))
    run = Replayed(work)
    for i in range(WARM_UP + 3):
        run(torch.full((1,), float(i)))
    run(torch.full((2,), 50.0))
    run(torch.full((1,), 7.0))
    return found[1:]


def test_a_captured_step_sees_every_batch_once(calls: list[tuple[int, str]]) -> None:
    assert [total for total, _ in calls] == [*range(WARM_UP + 3), 100, 7]


def test_batches_of_another_size_are_not_replayed(calls: list[tuple[int, str]]) -> None:
    assert [how for _, how in calls] == ["called"] * WARM_UP + ["replayed"] * 3 + ["called", "replayed"]


def test_on_a_cpu_nothing_is_captured() -> None:
    seen: list[int] = []
    run = Replayed(lambda x: seen.append(int(x)))
    for i in range(2 * WARM_UP):
        run(torch.tensor(float(i)))
    assert seen == [*range(2 * WARM_UP)]
