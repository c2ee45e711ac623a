"""Shuffled batches: what each epoch holds, where it resumes, what it reads."""

from itertools import chain, islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saelib.activations.rows import ArrayRows
from saelib.errors import UserError
from saelib.train.batches_from_store import ShuffledBatches

ROW_BYTES = 8  # two float32 numbers


class CountingRows(ArrayRows):
    """Rows [i, -i] that note which blocks were read."""

    def __init__(self, tokens: int, block_rows: int) -> None:
        ids = np.arange(tokens, dtype=np.float32)
        super().__init__(np.stack([ids, -ids], axis=1), block_rows=block_rows)
        self.reads: list[tuple[int, int]] = []

    def block(self, start: int, stop: int) -> np.ndarray:
        self.reads.append((start, stop))
        return super().block(start, stop)


def ids(loader: ShuffledBatches, count: int, start: int = 0) -> list[list[float]]:
    return [batch[:, 0].tolist() for batch in islice(loader.batches(start), count)]


sizes = st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(1, 60), st.integers(1, 5)).filter(
    lambda s: s[2] <= s[0]
)


@given(sizes, st.integers(0, 3))
def test_an_epoch_is_a_permutation_but_for_an_incomplete_batch(size: tuple[int, int, int, int], seed: int):
    tokens, block_rows, batch_size, window_blocks = size
    rows = CountingRows(tokens, block_rows)
    window = window_blocks * block_rows * ROW_BYTES
    loader = ShuffledBatches(rows, batch_size, seed=seed, window_bytes=window)
    per_epoch = tokens // batch_size
    batches = ids(loader, 3 * per_epoch)
    for epoch in range(3):
        seen = list(chain.from_iterable(batches[epoch * per_epoch : (epoch + 1) * per_epoch]))
        assert len(seen) == per_epoch * batch_size
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(range(tokens))


@given(sizes, st.integers(0, 12))
def test_starting_at_a_step_gives_what_an_unbroken_run_gives_there(size: tuple[int, int, int, int], start: int):
    tokens, block_rows, batch_size, window_blocks = size
    rows = CountingRows(tokens, block_rows)

    def loader() -> ShuffledBatches:
        return ShuffledBatches(rows, batch_size, seed=1, window_bytes=window_blocks * block_rows * ROW_BYTES)

    assert ids(loader(), 5, start) == ids(loader(), start + 5)[start:]


def test_order_depends_on_seed_and_epoch():
    def order(seed: int) -> list[list[float]]:
        return ids(ShuffledBatches(CountingRows(100, 10), 50, seed=seed, window_bytes=30 * ROW_BYTES), 4)

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0)[:2] != order(0)[2:]


def test_blocks_come_in_another_order_each_epoch():
    loader = ShuffledBatches(CountingRows(100, 10), 10, seed=0, window_bytes=10 * ROW_BYTES)
    blocks = [min(batch) // 10 for batch in ids(loader, 20)]
    assert sorted(blocks[:10]) == sorted(blocks[10:]) == list(range(10))
    assert blocks[:10] != blocks[10:]
    assert blocks[:10] != list(range(10))


def test_rows_of_a_window_are_mixed_evenly():
    # One window: a row's place in the epoch is uniform, so its mean over epochs is near the middle.
    loader = ShuffledBatches(CountingRows(64, 8), 64, seed=0)
    places = np.mean([np.argsort(batch) for batch in ids(loader, 400)], axis=0)
    assert np.abs(places - 31.5).max() < 5 * np.sqrt((64**2 - 1) / 12 / 400)


def test_each_block_is_read_once_an_epoch_and_a_small_store_once_for_all():
    rows = CountingRows(100, 10)
    ids(ShuffledBatches(rows, 10, seed=0, window_bytes=30 * ROW_BYTES), 20)
    blocks = [(start, start + 10) for start in range(0, 100, 10)]
    assert sorted(rows.reads[:10]) == blocks
    assert sorted(rows.reads[10:]) == blocks
    rows.reads.clear()
    ids(ShuffledBatches(rows, 10, seed=0), 50)
    assert rows.reads == blocks


def test_offset_is_added_and_batches_are_float32():
    rows = CountingRows(8, 4)
    rows.offset = np.array([1000, 0], dtype=np.float32)
    batch = next(ShuffledBatches(rows, 8, seed=0).batches())
    assert batch.dtype == torch.float32
    assert sorted(batch[:, 0].tolist()) == [1000 + i for i in range(8)]


def test_too_few_rows_for_a_batch_is_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match=r"array: 9 training tokens.*batch of 10.*batch_size"):
        ShuffledBatches(CountingRows(9, 4), 10, seed=0)


def test_a_batch_lasts_until_the_next_one():
    loader = ShuffledBatches(CountingRows(100, 10), 10, seed=0, window_bytes=30 * ROW_BYTES)
    first, second = islice(loader.batches(), 2)
    assert first.data_ptr() == second.data_ptr()
