"""Batches that are made on a device are those of a CPU, in the same order, however the rows lie there."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saelib.activations.rows import ArrayRows
from saelib.config import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.evaluation.space import Space
from saelib.preprocessing.on_device import DevicePreprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.train.batches_from_store import ShuffledBatches
from saelib.train.batches_on_device import DeviceBatches
from saelib.train.sweep import RunningSweep, Subject
from saelib.train.training import stored_batches
from tests.waits import HostReads

ALL, NONE = float("inf"), 0.0
ROOMS = pytest.mark.parametrize("room", [ALL, NONE], ids=["resident", "two windows"])
OFFSET = np.array([1000, -3], np.float32)


class CountingRows(ArrayRows):
    """Rows [i, -i] in float16 that note which blocks were read."""

    def __init__(self, tokens: int, block_rows: int, offset: np.ndarray | None = OFFSET) -> None:
        ids = np.arange(tokens, dtype=np.float16)
        super().__init__(np.stack([ids, -ids], axis=1), block_rows=block_rows, offset=offset)
        self.reads: list[tuple[int, int]] = []

    def block(self, start: int, stop: int) -> np.ndarray:
        self.reads.append((start, stop))
        return super().block(start, stop)


def widened(x: torch.Tensor) -> torch.Tensor:
    return x.float() + torch.from_numpy(OFFSET).to(x.device)


def on(device: str, rows: ArrayRows, batch_size: int, room: float, window: int, seed: int = 1) -> DeviceBatches:
    return DeviceBatches(
        rows, widened, 2, batch_size, seed=seed, device=device, room=room, window_bytes=window * rows.block_rows * 8
    )


sizes = st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(1, 60), st.integers(1, 5)).filter(
    lambda s: s[2] <= s[0]
)


@pytest.mark.parametrize("room", [ALL, NONE], ids=["resident", "two windows"])
@given(size=sizes, start=st.integers(0, 12))
def test_they_are_the_batches_of_a_cpu_from_any_step_on(
    size: tuple[int, int, int, int], start: int, room: float
) -> None:
    tokens, block_rows, batch_size, window = size
    rows = CountingRows(tokens, block_rows)
    plain = ShuffledBatches(rows, batch_size, seed=1, window_bytes=window * block_rows * 8).batches(start)
    ours = on("cpu", rows, batch_size, room, window).batches(start)
    for _ in range(3 * (tokens // batch_size) + 2):
        assert torch.equal(next(ours), next(plain))


@ROOMS
def test_the_device_makes_no_difference(device: str, room: float) -> None:
    rows = CountingRows(1000, 64)
    ours, theirs = on(device, rows, 48, room, 3).batches(5), on("cpu", rows, 48, room, 3).batches(5)
    for mine, other in islice(zip(ours, theirs, strict=True), 60):
        assert mine.device.type == device
        assert torch.equal(mine.cpu(), other)


def test_resident_rows_are_read_once_and_windows_as_often_as_they_are_needed(device: str) -> None:
    rows = CountingRows(100, 10)
    resident = on(device, rows, 10, ALL, 3)
    assert resident.resident
    assert len(list(islice(resident.batches(), 45))) == 45
    blocks = [(start, start + 10) for start in range(0, 100, 10)]
    assert [read for read in rows.reads if read != (0, 1)] == blocks
    rows.reads.clear()
    windows = on(device, rows, 10, 100 * 2 * 2 - 1, 3)
    assert not windows.resident
    assert len(list(islice(windows.batches(), 10))) == 10
    read = [read for read in rows.reads if read != (0, 1)]
    assert sorted(read[:10]) == blocks
    assert len(read) <= 13  # and the first window of the next epoch


def test_making_a_batch_never_waits_for_the_device() -> None:
    batches = on("cpu", CountingRows(100, 10), 10, ALL, 3).batches()
    next(batches)
    with HostReads() as reads:
        for _ in range(30):
            next(batches)
    assert reads.found == []


def test_too_few_rows_are_refused(device: str) -> None:
    with pytest.raises(UserError, match="9 training tokens do not fill one batch of 10"):
        on(device, CountingRows(9, 4), 10, ALL, 1)


def sweep_on(device: str, rows: ArrayRows, preprocess: Preprocessing, batch_size: int) -> RunningSweep:
    """A sweep whose rows are prepared as on a GPU."""
    space = Space(preprocess, rows, device)
    space.on_device = DevicePreprocessing(space.preprocess, device)
    config, subject = TrainConfig(d_sae=8, k=2, batch_size=batch_size), Subject("toy", 1, "test")
    return RunningSweep(subject, config, VariantConfig(), 3, {}, space, rows, np.ones(1, np.bool_), [])


@ROOMS
@pytest.mark.parametrize("kind", ["raw", "centered", "scaled", "narrower"])
def test_a_sweep_reads_the_same_prepared_rows(kind: str, room: float, device: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((300, 6)).astype(np.float16)
    rows = ArrayRows(values, block_rows=32, offset=np.arange(6, dtype=np.float32))
    matrix = np.linalg.qr(rng.standard_normal((6, 6)))[0][:, :4].astype(np.float32)
    scale = {"scaled": np.arange(1, 7, dtype=np.float32), "narrower": matrix}.get(kind)
    center = np.zeros(6) if kind == "raw" else rng.standard_normal(6)
    preprocess = Preprocessing(center, scale)
    window = 2 * 32 * 4 * 4  # two blocks of the narrower rows, one of the others
    sweep = sweep_on(device, rows, preprocess, batch_size=40)
    ours = stored_batches([sweep], rows, room, window).batches(0)
    space = Space(preprocess, rows, "cpu")
    theirs = ShuffledBatches(space.prepare(rows), 40, seed=3, window_bytes=window).batches()
    for mine, other in islice(zip(ours, theirs, strict=True), 20):
        if kind == "narrower":  # a product adds in another order
            torch.testing.assert_close(mine.cpu(), other, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(mine.cpu(), other)
