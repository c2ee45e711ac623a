"""Shuffle buffers on a device give the batches of buffers in the host's memory, bit for bit."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from saelib.activations.rows import ArrayRows, read_float32
from saelib.evaluation.space import Space
from saelib.preprocessing.on_device import DevicePreprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.store.rounding import round_on_device, round_rows
from saelib.train.batches_from_model import START, DeviceRows, StreamedBatches
from saelib.train.training import _prepared
from tests.train.test_stream import D, Model


class Large(Model):
    """Some rows do not fit float16."""

    def rows(self, layer: int) -> np.ndarray:
        values = super().rows(layer)
        if layer == 2:
            values[17, 3] = 1e6
        return values


def stream(model: Any, device: str | None, offset: np.ndarray | None) -> StreamedBatches:
    options = {"batch_size": 4, "buffer_rows": 12, "seed": 0, "threads": 1, "device": device}
    return StreamedBatches(model, {1: offset, 2: offset}, name="toy", **options)


def space_on(device: str) -> Space:
    rows = ArrayRows(np.random.default_rng(0).standard_normal((9, D)).astype(np.float32))
    space = Space(Preprocessing(np.zeros(D)), rows, device)
    space.on_device = DevicePreprocessing(space.preprocess, device)
    return space


@pytest.mark.parametrize("offset", [np.full(D, 100, np.float32), None], ids=["float16", "float32"])
@pytest.mark.parametrize("model", [Model, Large])
def test_the_same_rows_in_the_same_order(model: type[Model], offset: np.ndarray | None, device: str) -> None:
    ours, theirs = stream(model(), device, offset), stream(model(), None, offset)
    space = space_on(device)
    for mine, other in islice(zip(ours.batches(0, START), theirs.batches(0, START), strict=True), 30):
        assert ours.position == theirs.position
        for layer in (1, 2):
            rows, on_host = mine[layer], other[layer]
            assert isinstance(rows, DeviceRows)
            assert isinstance(on_host, ArrayRows)
            assert rows.values.device.type == device
            found = _prepared(rows, space, 4).cpu().numpy()
            np.testing.assert_array_equal(found, read_float32(on_host, 0, 4))


def test_rows_are_rounded_and_kept_as_on_the_host(device: str) -> None:
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((300, 16)) * 10.0 ** rng.integers(-9, 7, (300, 1))).astype(np.float32)
    rows[:3] = [np.zeros(16), np.full(16, 0.1), np.full(16, 1 / 3)]
    offset = rng.standard_normal(16).astype(np.float16).astype(np.float32)
    wanted = round_rows(rows, offset)
    halves, kept = round_on_device(torch.from_numpy(rows).to(device), torch.from_numpy(offset).to(device))
    np.testing.assert_array_equal(halves.cpu().numpy(), wanted.halves)
    np.testing.assert_array_equal(kept.cpu().numpy(), wanted.kept)
    assert 0 < wanted.kept.sum() < 300
