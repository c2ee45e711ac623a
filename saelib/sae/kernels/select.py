"""The k largest positive entries of a row.

Values are compared as integers with the same bits: floats > 0 are in the order of their bits, and a search for the k-th
largest by halving ends after at most 31 steps, infinities included.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import inner
from saelib.sae.kernels.llvm.compress import compress_at_least
from saelib.sae.kernels.llvm.largest import GROUPS, largest_of_groups
from saelib.sae.kernels.llvm.vector import LANES

SMALLEST = np.int32(1)
"""The bits of the smallest float above 0."""
BEYOND = np.int32(0x7F800001)
"""One above the bits of infinity."""


class SelectBuffers(NamedTuple):
    """Buffers for selecting from rows of some length."""

    group_largest: NDArray[np.float32]
    """[groups], a multiple of GROUPS; entry i of a row is in group i modulo their number."""
    found_indices: NDArray[np.int32]
    """[length + LANES]"""
    found_values: NDArray[np.float32]
    """The same."""


def group_count(entries: int, k: int) -> int:
    """Number of groups to divide a row into: 2k leave few candidates, fewer than k bound nothing."""
    groups = GROUPS
    while groups < min(2 * k, entries // 4):
        groups *= 2
    return groups


def row_length(entries: int, k: int) -> int:
    """Length of a row with room for whole groups."""
    groups = group_count(entries, k)
    return -(-entries // groups) * groups


def select_buffers(entries: int, k: int) -> SelectBuffers:
    """Buffers for rows of `entries`, stored with `row_length`."""
    found = row_length(entries, k) + LANES
    groups = np.zeros(group_count(entries, k), np.float32)
    return SelectBuffers(groups, np.zeros(found, np.int32), np.zeros(found, np.float32))


@inner
def select_row(rows, row, length, buffers, out_values, out_indices, out_row):
    """Writes value and index of the k largest positive entries of rows[row, :length]; returns how many there are.

    Of equal values the first are taken; what is written behind the count means nothing. The largest entries of
    `groups` groups show a bar that at least k entries reach, so that few of the row are looked at twice.

    Args:
        rows: float32 [.., width], contiguous.
        row: Which one.
        length: A multiple of the number of groups.
        buffers: `SelectBuffers`.
        out_values: float32 [.., k], contiguous, k at least 1.
        out_indices: int32, the same.
        out_row: Which row to write.
    """
    k, start = out_values.shape[1], row * rows.shape[1]
    bar_value = _low_bar(rows, start, length, k, buffers.group_largest)
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
        out_values[out_row, written] = buffers.found_values[q]
        out_indices[out_row, written] = buffers.found_indices[q]
        written += 1
    return written


@inner
def select_near(rows, row, length, k, slack, buffers, out_indices, out_row):
    """Writes the indices of all entries that are no more than `slack` below the k-th largest positive one, or below 0.

    Of fewer than k positive entries, all above -slack count. Returns how many there are; beyond the row's length of
    `out_indices` [.., most] they are counted only. The other arguments are those of `select_row`.
    """
    start = row * rows.shape[1]
    bar_value = _low_bar(rows, start, length, k, buffers.group_largest) - slack
    found = compress_at_least(rows, start, length, bar_value, buffers.found_indices, buffers.found_values)
    least = _as_float(_bar_for(buffers.found_values.view(np.int32), found, k, 0)) - slack
    near = 0
    for q in range(found):
        if buffers.found_values[q] >= least:
            if near < out_indices.shape[1]:
                out_indices[out_row, near] = buffers.found_indices[q]
            near += 1
    return near


@inner
def _low_bar(rows, start, length, k, groups):
    """A bar > 0 that is not above the k-th largest positive entry; `groups` is a buffer."""
    if k > len(groups):
        return _as_float(SMALLEST)
    for g in range(0, len(groups), GROUPS):
        largest_of_groups(rows, start + g, len(groups), length // len(groups), groups, g)
    return _as_float(_bar_for(groups.view(np.int32), len(groups), k, 2))


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
