"""The k largest positive entries of a row.

Values are compared as integers with the same bits: floats > 0 are in the order of their bits, and a search for the k-th
largest by halving ends after at most 31 steps, infinities included.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import inner
from saelib.sae.kernels.ir_compress import compress_at_least
from saelib.sae.kernels.vector import LANES

SMALLEST = np.int32(1)
"""The bits of the smallest float above 0."""
BEYOND = np.int32(0x7F800001)
"""One above the bits of infinity."""
MIN_GROUPS = 128
"""A multiple of LANES."""


class SelectBuffers(NamedTuple):
    """What selecting from rows of up to `length` entries needs."""

    group_largest: NDArray[np.float32]
    """[groups]"""
    found_indices: NDArray[np.int32]
    """[length + LANES]"""
    found_values: NDArray[np.float32]
    """The same."""


def row_length(entries: int) -> int:
    """Entries of a row with room for whole groups."""
    return -(-entries // MIN_GROUPS) * MIN_GROUPS


def select_buffers(length: int, k: int) -> SelectBuffers:
    """For rows of `length`, from `row_length`. Twice k groups leave few candidates; fewer than k bound nothing."""
    groups = MIN_GROUPS
    while groups < 2 * k and length % (2 * groups) == 0:
        groups *= 2
    found = length + LANES
    return SelectBuffers(np.zeros(groups, np.float32), np.zeros(found, np.int32), np.zeros(found, np.float32))


@inner
def select_row(rows, row, length, k, buffers, out_values, out_indices):
    """Write value and index of the k largest positive entries of rows[row, :length]; returns how many there are.

    Of equal values the first are taken, and they are written in the order of their indices. The largest entries of
    `groups` groups show a bar that at least k entries reach, so that few of the row are looked at twice.

    Args:
        rows: float32 [.., width], contiguous.
        row: Which one.
        length: A multiple of the number of groups.
        k: 1 or more.
        buffers: `SelectBuffers`.
        out_values: float32 [k]
        out_indices: int32 [k]
    """
    bar = SMALLEST
    groups = buffers.group_largest
    if k <= len(groups):
        _largest_of_groups(rows[row], length, groups)
        bar = _bar_for(groups.view(np.int32), len(groups), k, 2)
    start = row * rows.shape[1]
    bar_value = _as_float(bar)
    found = compress_at_least(rows, start, length, bar_value, buffers.found_indices, buffers.found_values)
    bits = buffers.found_values.view(np.int32)
    bar = _bar_for(bits, found, k, 0)
    equal_left = k - _count_at_least(bits, found, bar + np.int32(1))
    written = 0
    for q in range(found):
        if bits[q] < bar:
            continue
        if bits[q] == bar:
            if equal_left <= 0:
                continue
            equal_left -= 1
        out_values[written] = buffers.found_values[q]
        out_indices[written] = buffers.found_indices[q]
        written += 1
    return written


@inner
def _largest_of_groups(row, length, largest):
    """Entry i belongs to group i modulo the number of groups; 0 where nothing in a group is positive."""
    groups = len(largest)
    largest[:] = 0
    for first in range(0, length, groups):
        for g in range(groups):
            value = row[first + g]
            largest[g] = value if value > largest[g] else largest[g]


@inner
def _bar_for(bits, count, k, slack):
    """The highest bar that k of the values reach, or a lower one that at most k + slack reach; > 0 in any case."""
    low, high = SMALLEST, BEYOND
    if _count_at_least(bits, count, low) <= k:
        return low
    while high - low > 1:
        middle = low + (high - low) // np.int32(2)
        reached = _count_at_least(bits, count, middle)
        if reached >= k:
            low = middle
            if reached <= k + slack:
                break
        else:
            high = middle
    return low


@inner
def _count_at_least(bits, count, bar):
    reached = np.int32(0)
    for i in range(count):
        reached += np.int32(bits[i] >= bar)
    return reached


@inner
def _as_float(bits):
    return np.array([bits], np.int32).view(np.float32)[0]
