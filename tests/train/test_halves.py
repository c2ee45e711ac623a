"""Laws of the two halves of the held-out rows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saelib.evaluation.space import Sample
from saelib.train.halves import choosing_half, only


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60))
def test_no_example_is_in_both_and_they_are_as_even_as_whole_examples_allow(numbers: list[int]):
    examples = np.array(numbers, np.int32)
    marked = choosing_half(len(examples), examples, "rows")
    assert 0 < marked.sum() < len(marked)
    if len(set(numbers)) > 1:
        chosen, others = set(examples[marked].tolist()), set(examples[~marked].tolist())
        assert max(chosen) < min(others)  # and so they share none
        sizes = [sum(number < bound for number in numbers) for bound in set(numbers)]
        best = min(abs(2 * size - len(numbers)) for size in sizes if size)
        assert abs(2 * marked.sum() - len(marked)) == best


def test_rows_without_examples_are_parted_in_the_middle():
    assert choosing_half(5, None, "rows").tolist() in ([True] * 2 + [False] * 3, [True] * 3 + [False] * 2)
    assert choosing_half(2, None, "rows").tolist() == [True, False]


def test_a_single_example_is_parted_and_said(caplog: pytest.LogCaptureFixture):
    assert choosing_half(4, np.full(4, 7), "toy (heldout)").tolist() == [True, True, False, False]
    assert "toy (heldout): all come from one example" in caplog.text


def test_the_marked_rows_of_samples():
    x = torch.arange(10.0).reshape(10, 1)
    samples = [Sample(x[start : start + 4], x[start : start + 4].double().numpy()) for start in (0, 4, 8)]
    marked = np.array([1, 0, 0, 1, 0, 0, 0, 0, 0, 1], bool)
    found = list(only(samples, marked))
    assert [part.x.flatten().tolist() for part in found] == [[0, 3], [9]]
    assert [part.activations is not None and part.activations.flatten().tolist() for part in found] == [[0, 3], [9]]
