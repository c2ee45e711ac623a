"""The laws of the split: whole groups, every item once, the seed decides."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelib.datasets.base import split_by_group
from saelib.errors import UserError

groupings = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60).filter(lambda groups: len(set(groups)) > 1)


@given(groupings, st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_each_item_is_in_one_split_and_each_group_too(groups, seed, fraction):
    items = list(range(len(groups)))
    train, heldout = (split_by_group(items, groups, split, seed, fraction, "toy") for split in ("train", "heldout"))
    assert sorted(train + heldout) == items
    assert train
    assert heldout
    assert not {groups[i] for i in train} & {groups[i] for i in heldout}
    # Never more than asked for, but for the one group that there must be.
    smallest = min(groups.count(group) for group in set(groups))
    assert len(heldout) <= max(fraction * len(items), smallest)


def test_the_share_is_met_where_groups_are_small():
    groups = [f"g{i // 3}" for i in range(3000)]
    assert len(split_by_group(range(3000), groups, "heldout", 0, 0.3, "toy")) in range(898, 901)


def test_the_seed_alone_decides_order_and_split():
    items, groups = list(range(200)), [str(i % 20) for i in range(200)]
    first = split_by_group(items, groups, "train", 1, 0.3, "toy")
    assert split_by_group(items, groups, "train", 1, 0.3, "toy") == first
    other = split_by_group(items, groups, "train", 2, 0.3, "toy")
    assert {groups[i] for i in other} != {groups[i] for i in first}
    # Shuffled across groups: neighbors seldom share one.
    assert sum(groups[a] == groups[b] for a, b in pairwise(first)) < 30
    assert first != sorted(first)


@pytest.mark.parametrize("groups", [[], ["a"], ["a", "a", "a"]])
def test_one_group_cannot_be_split(groups):
    with pytest.raises(UserError, match=r"toy: .*at least two groups"):
        split_by_group(groups, groups, "train", 0, 0.3, "toy")
