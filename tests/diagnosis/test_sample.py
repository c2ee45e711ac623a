"""Rows are spread evenly, whole examples at a time, and batches are kept as they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelib.activations.even import EvenRows
from saelib.activations.rows import ArrayRows
from saelib.diagnosis.sample import spool
from saelib.errors import UserError


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([1, 7, 100]))
def test_rows_are_distinct_in_order_and_no_more_than_asked_for(total: int, tokens: int, context: int) -> None:
    total = total * context
    rows = EvenRows(ArrayRows(np.arange(total, dtype=np.float32)[:, None]), tokens, context)
    assert rows.shape[0] <= tokens
    assert (np.diff(rows.numbers) > 0).all()
    assert rows.numbers[-1] < total
    if total <= tokens:
        assert rows.shape[0] == total


def test_all_parts_of_the_source_are_seen() -> None:
    rows = EvenRows(ArrayRows(np.zeros((1_000_000, 1), np.float32)), 100_000)
    assert rows.shape[0] > 95_000
    shares = np.histogram(rows.numbers, bins=20, range=(0, 1_000_000))[0] / len(rows.numbers)
    assert shares.min() > 0.04


def test_runs_hold_whole_examples() -> None:
    rows = EvenRows(ArrayRows(np.zeros((700_000, 1), np.float32)), 50_000, context=70)
    assert (rows.numbers.reshape(-1, 70)[:, 0] % 70 == 0).all()


def test_blocks_are_the_rows_that_the_numbers_name() -> None:
    values = np.random.default_rng(0).standard_normal((50_000, 3)).astype(np.float32)
    rows = EvenRows(ArrayRows(values), 9000)
    for start, stop in ((0, 10), (500, 3500), (0, rows.shape[0])):
        np.testing.assert_array_equal(rows.block(start, stop), values[rows.numbers[start:stop]])


def test_batches_are_kept_until_there_are_enough() -> None:
    asked = []

    def batches():
        for number in range(100):
            asked.append(number)
            yield np.full((10, 4), number, np.float64)

    rows = spool(batches(), 25, "batches")
    assert rows.shape == (25, 4)
    assert rows.block(0, 25)[:, 0].tolist() == [0] * 10 + [1] * 10 + [2] * 5
    assert asked == [0, 1, 2]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "there are no batches"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], r"batch 1: has 4 dimensions; those before have 3"),
        ([np.zeros((2, 3), int)], "batch 0: holds int64"),
    ],
)
def test_bad_batches_are_refused(batches: list[np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        spool(iter(batches), 100, "activations")
