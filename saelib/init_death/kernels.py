"""Find the latents that a block of tokens brings to life, from its pre-activations while they are in cache.

A token selects a latent for the first time only if that latent is among the token's k largest. So the kernel first
takes the largest value among the latents that were not selected so far, and counts the token's values above it: if
there are k or more, as is usual after a few thousand tokens, the token selects nothing new and needs no ranking.

Pre-activations are compared as integers that have the same bits: floats > 0 are in the same order as their bits, all
others give 0 or less, and the compiler turns maxima and counts of integers into vector instructions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from saelib.files.compiled import compiled_from
from saelib.files.digest import file_sha256
from saelib.progress import announce_compiling

announce_compiling()
NEVER = np.int32(2**31 - 1)
SHARED, AT_CENTER = -1, -2
"""Values of `Own.row`: the token has no pre-activations of its own, or its own are all zero."""

_SOURCE = file_sha256(Path(__file__))


def _compiled(function: Callable[..., Any]) -> Any:
    return compiled_from(njit(cache=True, nogil=True)(function), _SOURCE)


class Own(NamedTuple):
    """Pre-activations of single tokens under single variants; they replace those that all variants share."""

    hidden: NDArray[np.float32]
    """[rows, d_sae], with the variant's shift included."""
    row: NDArray[np.int32]
    """[variants, tokens]: the number of a row of `hidden`, `SHARED` or `AT_CENTER`."""


@_compiled
def record_firsts(
    hidden: NDArray[np.float32],
    shifts: NDArray[np.float32],
    own: Own,
    k: int,
    first_token: int,
    first_positive: NDArray[np.int32],
    first_selected: NDArray[np.int32],
) -> None:
    """Record the first token at which each latent was positive, and the first at which it was selected.

    A token selects its k largest pre-activations, if they are > 0; of equal ones, it selects the first in order.

    Args:
        hidden: [tokens, d_sae], without NaN; pre-activations, except for a shift of each latent.
        shifts: [variants, d_sae]; variant v has the pre-activations `hidden + shifts[v]`, except for tokens in `own`.
        own: pre-activations of the tokens that would otherwise be noise (`saelib.init_death.near`).
        k: 1 to d_sae.
        first_token: number of the first token in `hidden`; calls must come in the order of the tokens.
        first_positive: [variants, d_sae], updated in place; `NEVER` for a latent that was not positive yet.
        first_selected: [variants, d_sae], updated in place; `NEVER` for a latent that was not selected yet.
    """
    variants, d_sae = shifts.shape
    values = np.empty(d_sae, np.float32)
    bits = values.view(np.int32)
    pending = np.zeros((variants, d_sae), np.int32)
    for v in range(variants):
        for j in range(d_sae):
            if first_selected[v, j] == NEVER:
                pending[v, j] = -1
    for row in range(hidden.shape[0]):
        token = np.int32(first_token + row)
        for v in range(variants):
            place = own.row[v, row]
            if place == AT_CENTER:
                continue
            if place == SHARED:
                _add(hidden[row], shifts[v], values)
            else:
                values[:] = own.hidden[place]
            _note_positive(bits, token, first_positive[v])
            highest = _largest_pending(bits, pending[v])
            if highest > 0 and _count_above(bits, highest) < k:
                _select(bits, k, highest, token, pending[v], first_selected[v])


@_compiled
def _add(hidden, shift, values):
    for j in range(hidden.shape[0]):
        values[j] = hidden[j] + shift[j]


@_compiled
def _note_positive(bits, token, first_positive):
    for j in range(bits.shape[0]):
        first_positive[j] = min(first_positive[j], token if bits[j] > 0 else NEVER)


@_compiled
def _largest_pending(bits, pending):
    """Find the largest value among latents not selected so far (whose `pending` is -1); 0 if none is positive."""
    largest = np.int32(0)
    for j in range(bits.shape[0]):
        largest = max(largest, bits[j] & pending[j])
    return largest


@_compiled
def _count_above(bits, bar):
    count = np.int32(0)
    for j in range(bits.shape[0]):
        count += np.int32(bits[j] > bar)
    return count


@_compiled
def _select(bits, k, highest, token, pending, first_selected):
    """Record the latents that a token selects for the first time; `highest` > 0 comes from `_largest_pending`."""
    bar, room = _selection_bar(bits, k, highest)
    for j in range(bits.shape[0]):
        tied = bits[j] == bar and room > 0
        if bits[j] > bar or tied:
            room -= np.int64(tied)
            if pending[j] != 0:
                pending[j] = 0
                first_selected[j] = token


@_compiled
def _selection_bar(bits, k, highest):
    """Find the bar for selection: every value above it is selected, and as many equal to it as the second result says.

    The bar is found by bisection. Each step is one count, which is so cheap that this beats sorting. Fewer than k
    values are above `highest`.
    """
    low, high = np.int32(0), highest
    if _count_above(bits, low) <= k:
        return low, 0
    while high - low > 1:
        middle = np.int32(low + (high - low) // 2)
        above = _count_above(bits, middle)
        if above == k:
            return middle, 0
        if above > k:
            low = middle
        else:
            high = middle
    return high, k - _count_above(bits, high)
