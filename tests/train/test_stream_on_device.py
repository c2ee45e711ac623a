"""Shuffle buffers on a device give the batches of buffers in the host's memory, bit for bit."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saelib.activations.rows import ArrayRows, read_float32
from saelib.evaluation.space import Space
from saelib.extract.batches import Batch
from saelib.preprocessing.on_device import DevicePreprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.store.rounding import round_on_device, round_rows
from saelib.train import stage
from saelib.train.batches_from_model import START, DeviceRows, StreamedBatches, _DeviceBuffer
from saelib.train.training import _prepared
from tests.train.test_stream import D, Model
from tests.train.test_train_stream import language, run


class Large(Model):
    """Some rows do not fit float16."""

    def rows(self, layer: int) -> np.ndarray:
        values = super().rows(layer)
        if layer == 2:
            values[17, 3] = 1e6
        return values


class Left(Large):
    """Leaves its rows on a device."""

    def __call__(self, split: str, start: int = 0) -> Iterator[Batch]:
        for batch in super().__call__(split, start):
            yield replace(batch, layers={layer: torch.from_numpy(acts) for layer, acts in batch.layers.items()})


def stream(model: Any, device: str | None, offset: np.ndarray | None) -> StreamedBatches:
    options = {"batch_size": 4, "buffer_rows": 12, "seed": 0, "threads": 1, "device": device}
    return StreamedBatches(model, {1: offset, 2: offset}, name="toy", **options)


def space_on(device: str) -> Space:
    rows = ArrayRows(np.random.default_rng(0).standard_normal((9, D)).astype(np.float32))
    space = Space(Preprocessing(np.zeros(D)), rows, device)
    space.on_device = DevicePreprocessing(space.preprocess, device)
    return space


@pytest.mark.parametrize("offset", [np.full(D, 100, np.float32), None], ids=["float16", "float32"])
@pytest.mark.parametrize("model", [Model, Large, Left])
def test_the_same_rows_in_the_same_order(model: type[Model], offset: np.ndarray | None, device: str) -> None:
    on_host = Large if model is Left else model
    ours, theirs = stream(model(), device, offset), stream(on_host(), None, offset)
    space = space_on(device)
    for mine, other in islice(zip(ours.batches(0, START), theirs.batches(0, START), strict=True), 30):
        assert ours.position == theirs.position
        for layer in (1, 2):
            rows, stored = mine[layer], other[layer]
            assert isinstance(rows, DeviceRows)
            assert isinstance(stored, ArrayRows)
            assert rows.values.device.type == device
            found = _prepared(rows, space, 4).cpu().numpy()
            np.testing.assert_array_equal(found, read_float32(stored, 0, 4))


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


def test_rows_go_from_the_model_to_the_buffer_without_the_host(
    tiny_gpt2: Path, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_host = language(tiny_gpt2, tmp_path / "host")
    run(on_host)
    place = "cpu:0" if device == "cpu" else device  # a name that is not "cpu": rows are prepared as on a GPU then
    put, kinds = _DeviceBuffer.put, set()
    monkeypatch.setattr(stage, "job_device", lambda *_, **__: place)
    monkeypatch.setattr(stage, "_buffer_device", lambda *_: place)
    monkeypatch.setattr(_DeviceBuffer, "put", lambda self, at, acts: kinds.add(type(acts)) or put(self, at, acts))
    ours = language(tiny_gpt2, tmp_path / "device")
    run(ours)
    assert kinds == {torch.Tensor}
    for layer in (2, 3):
        found, wanted = (
            load_file(config.results / f"train/tiny/layer_{layer}/plain/weights.safetensors")
            for config in (ours, on_host)
        )
        for name, value in wanted.items():  # the same batches; on a CPU also the same steps
            torch.testing.assert_close(found[name], value, rtol=0, atol=0 if device == "cpu" else 1e-5, msg=name)
