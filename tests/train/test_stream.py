"""Batches straight from a model: every row once, the store's own bits, and the same from any point on."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from saelib.activations.rows import read_float32
from saelib.errors import UserError
from saelib.extract.batches import Batch
from saelib.train.batches_from_model import Position, StreamedBatches

D = 6
SIZES = (5, 9, 1, 14, 3, 8, 10)
"""Rows of each forward pass; 50 an epoch."""


class Model:
    """Gives rows of which each is told by its first value; notes which passes were computed."""

    def __init__(self, sizes: tuple[int, ...] = SIZES, numbers: tuple[int, ...] | None = None) -> None:
        self.sizes, self.numbers = sizes, numbers or tuple(range(len(sizes)))
        self.ran: list[int] = []
        self.threads: set[int] = set()

    def rows(self, layer: int) -> np.ndarray:
        values = np.random.default_rng(layer).standard_normal((sum(self.sizes), D)).astype(np.float32)
        values[:, 0] = np.arange(len(values))
        return values + 100 * layer

    def __call__(self, split: str, start: int = 0) -> Iterator[Batch]:
        assert split == "train"
        ends = np.cumsum(self.sizes)
        for number, size, end in zip(self.numbers, self.sizes, ends, strict=True):
            if number < start:
                continue
            self.ran.append(number)
            self.threads.add(torch.get_num_threads())
            layers = {layer: self.rows(layer)[end - size : end] for layer in (1, 2)}
            yield Batch(number, layers, np.zeros(size, np.int32), ["x"], 0)


def stream(model: Any, batch_size: int = 4, buffer_rows: int = 12, seed: int = 0, offset: float = 100.0) -> Any:
    offsets = {layer: np.full(D, offset * layer, np.float32) for layer in (1, 2)}
    options = {"batch_size": batch_size, "buffer_rows": buffer_rows, "seed": seed, "threads": 1}
    return StreamedBatches(model, offsets, name="toy", **options)


def whole(rows: Any) -> np.ndarray:
    return read_float32(rows, 0, rows.shape[0])


START = Position()


def take(batches: Any, count: int, start: int = 0, position: Position = START) -> list[dict[int, np.ndarray]]:
    found = islice(batches.batches(start, position), count)
    return [{layer: whole(rows) for layer, rows in batch.items()} for batch in found]


def same(first: list[dict[int, np.ndarray]], second: list[dict[int, np.ndarray]]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a[layer], b[layer]) for a, b in zip(first, second, strict=True) for layer in (1, 2)
    )


def ids(batches: list[dict[int, np.ndarray]], layer: int) -> np.ndarray:
    return np.concatenate([np.rint(batch[layer][:, 0] - 100 * layer).astype(int) for batch in batches])


@pytest.mark.parametrize(("batch_size", "buffer_rows"), [(4, 12), (5, 50), (1, 1), (10, 7), (25, 60)])
def test_epoch_after_epoch_every_row_comes_as_often_as_every_other(batch_size: int, buffer_rows: int) -> None:
    """Buffers follow one another through the stream: each is a permutation of its own stretch of it."""
    per_buffer = max(1, buffer_rows // batch_size) * batch_size
    buffers = 3 * 50 // per_buffer
    got = ids(take(stream(Model(), batch_size, buffer_rows), buffers * per_buffer // batch_size), 1)
    for number, stretch in enumerate(got.reshape(buffers, per_buffer)):
        expected = (np.arange(number * per_buffer, (number + 1) * per_buffer)) % 50
        assert sorted(stretch) == sorted(expected)


def test_layers_stay_together_and_rows_are_whole() -> None:
    model = Model()
    for batch in take(stream(model), 30):
        assert np.array_equal(ids([batch], 1), ids([batch], 2))
        for layer in (1, 2):
            offset = np.float32(100 * layer)
            stored = (model.rows(layer) - offset).astype(np.float16).astype(np.float32) + offset
            np.testing.assert_array_equal(batch[layer], stored[ids([batch], layer)])


def test_the_order_is_the_seeds_and_mixed() -> None:
    first, again, other = (take(stream(Model(), 5, 50, seed), 10) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)
    # In order of the stream, a batch of 5 would hold 5 neighbors.
    assert min(np.ptp(np.sort(ids([batch], 1))) for batch in first) > 10


def test_no_buffer_is_emptied_in_the_order_of_another() -> None:
    """One that holds an epoch holds the same rows each time: an equal order would make equal batches."""
    orders = ids(take(stream(Model(), 5, 50), 30), 1).reshape(3, 50)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("stop", range(1, 40))
def test_it_goes_on_from_any_batch_as_if_nothing_had_happened(stop: int) -> None:
    undisturbed = take(stream(Model()), 45)
    before = stream(Model())
    assert same(take(before, stop), undisturbed[:stop])
    assert same(take(stream(Model()), 45 - stop, stop, before.position), undisturbed[stop:])


def test_going_on_runs_the_model_from_the_buffers_start_alone() -> None:
    before = stream(Model())
    take(before, 7)  # in the third buffer, rows 24 to 35: passes 0 to 2 have 15 rows, pass 3 ends at 29
    assert before.position == Position(epoch=0, batch=3, rows=9)
    model = Model()
    take(stream(model), 1, 7, before.position)
    assert model.ran == [3, 4, 5]
    take(before, 9)
    assert before.position.rows == 36 - 32  # a buffer that is used up is not made again


def test_passes_without_rows_are_counted_and_left_out() -> None:
    gaps = Model(SIZES, (0, 1, 4, 5, 6, 9, 11))
    undisturbed = take(stream(Model()), 30)
    assert same(take(stream(gaps), 30), undisturbed)
    before = stream(gaps)
    take(before, 8)
    assert same(take(stream(gaps), 22, 8, before.position), undisturbed[8:])


def test_a_value_too_large_for_float16_widens_the_buffer_that_holds_it() -> None:
    class Large(Model):
        def rows(self, layer: int) -> np.ndarray:
            values = super().rows(layer)
            if layer == 2:
                values[20, 3] = 1e6
            return values

    batches = list(islice(stream(Large()).batches(0, Position()), 9))
    dtypes = [{layer: rows.values.dtype for layer, rows in batch.items()} for batch in batches]
    assert [types[1] for types in dtypes] == [np.float16] * 9
    assert [types[2] for types in dtypes] == [np.float16] * 3 + [np.float32] * 3 + [np.float16] * 3
    assert max(whole(batch[2])[:, 3].max() for batch in batches) == np.float32(1e6)


def test_rows_that_float16_does_not_keep_stay_what_they_are_and_the_others_keep_the_stores_bits() -> None:
    class Small(Model):
        def rows(self, layer: int) -> np.ndarray:
            values = super().rows(layer)
            values[[20, 37]], values[[21, 40]] = 1e-3 * np.arange(D), 0
            return values

    model = Small()
    found = list(islice(stream(model).batches(0, Position()), 12))
    for layer in (1, 2):
        x, offset = model.rows(layer)[:48], np.float32(100 * layer)
        stored = (x - offset).astype(np.float16).astype(np.float32) + offset
        stored[[20, 37]] = x[[20, 37]]
        got = np.concatenate([whole(batch[layer]) for batch in found])
        np.testing.assert_array_equal(np.unique(got, axis=0), np.unique(stored, axis=0))
        types = [batch[layer].values.dtype for batch in found]
        assert types == [np.float16] * 3 + [np.float32] * 3 + [np.float16] * 3 + [np.float32] * 3


def test_without_an_offset_rows_are_what_the_model_gives() -> None:
    options: dict[str, Any] = {"batch_size": 5, "buffer_rows": 50, "seed": 0, "threads": 1}
    model = Model()
    batches = islice(StreamedBatches(model, {1: None}, name="toy", **options).batches(0, Position()), 10)
    got = np.concatenate([whole(batch[1]) for batch in batches])
    np.testing.assert_array_equal(got[np.argsort(got[:, 0])], model.rows(1))


def test_the_models_threads_are_the_models_alone() -> None:
    before = torch.get_num_threads()
    model = Model()
    offsets = {1: np.zeros(D, np.float32)}
    batches = StreamedBatches(model, offsets, name="toy", batch_size=4, buffer_rows=8, seed=0, threads=before + 1)
    next(batches.batches(0, Position()))
    assert model.threads == {before + 1}
    assert torch.get_num_threads() == before


def test_a_model_without_rows_is_refused() -> None:
    with pytest.raises(UserError, match="toy: its data give no training token"):
        take(stream(Model((), ())), 1)
