"""The kernel agrees with sorting every token, on values with many ties, zeros and signs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.init_death.kernels import AT_CENTER, NEVER, SHARED, Own, record_firsts


def firsts_by_sorting(hidden: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds the first token at which each latent is positive, and the first at which it is selected."""
    order = np.argsort(-hidden, axis=1, kind="stable")[:, :k]
    selected = np.zeros(hidden.shape, dtype=bool)
    np.put_along_axis(selected, order, True, axis=1)
    return tuple(np.where(m.any(0), m.argmax(0), NEVER) for m in (hidden > 0, selected & (hidden > 0)))


def record(
    hidden: NDArray[np.float32],
    shifts: NDArray[np.float32],
    k: int,
    cuts: tuple[int, ...] = (),
    own: Own | None = None,
) -> list:
    positive, selected = np.full(shifts.shape, NEVER), np.full(shifts.shape, NEVER)
    own = own or Own(hidden[:0], np.full((len(shifts), len(hidden)), SHARED, np.int32))
    for start, stop in zip((0, *cuts), (*cuts, len(hidden)), strict=True):
        record_firsts(hidden[start:stop], shifts, Own(own.hidden, own.row[:, start:stop]), k, start, positive, selected)
    return [positive, selected]


@pytest.mark.parametrize("k", [1, 2, 7, 18, 36, 37])
@pytest.mark.parametrize("levels", [(-1, 1), (-3, 2), (-2, 12), (0, 1), (-3, 0)])
def test_ties_go_to_the_first_in_order(k: int, levels: tuple[int, int]) -> None:
    rng = np.random.default_rng(k)
    for tokens in (1, 40):
        hidden = rng.integers(levels[0], levels[1] + 1, (tokens, 37)).astype(np.float32)
        shifts = rng.integers(-2, 3, (3, 37)).astype(np.float32)
        shifts[0] = 0
        found = record(hidden, shifts, k)
        for v in range(3):
            positive, selected = firsts_by_sorting(hidden + shifts[v], k)
            np.testing.assert_array_equal(found[0][v], positive)
            np.testing.assert_array_equal(found[1][v], selected)


@pytest.mark.parametrize("scale", [1e-42, 1.0, 1e35])
@pytest.mark.parametrize("k", [1, 16, 200, 512])
def test_values_of_any_size(scale: float, k: int) -> None:
    """Everything above 0 is positive, subnormal numbers included."""
    hidden = (np.random.default_rng(0).standard_normal((150, 512)) * scale).astype(np.float32)
    found = record(hidden, np.zeros((1, 512), np.float32), k)
    positive, selected = firsts_by_sorting(hidden, k)
    np.testing.assert_array_equal(found[0][0], positive)
    np.testing.assert_array_equal(found[1][0], selected)


def test_zero_of_either_sign_never_fires() -> None:
    hidden = np.zeros((4, 20), np.float32)
    hidden[::2] = -0.0
    found = record(hidden, np.zeros((1, 20), np.float32), 20)
    assert (np.stack(found) == NEVER).all()


def test_blocks_of_tokens_can_be_cut_anywhere() -> None:
    rng = np.random.default_rng(2)
    hidden = rng.integers(-4, 4, (60, 50)).astype(np.float32)
    shifts = rng.integers(-1, 2, (2, 50)).astype(np.float32)
    whole = record(hidden, shifts, 6)
    for cuts in ((1,), (30, 31), tuple(range(5, 60, 5))):
        np.testing.assert_array_equal(record(hidden, shifts, 6, cuts), whole)


def test_tokens_with_pre_activations_of_their_own() -> None:
    """Own pre-activations replace the shared ones for one variant only; at the center nothing is positive."""
    rng = np.random.default_rng(3)
    hidden = rng.integers(-4, 4, (30, 41)).astype(np.float32)
    shifts = rng.integers(-1, 2, (2, 41)).astype(np.float32)
    own_hidden = rng.integers(-4, 9, (3, 41)).astype(np.float32)
    row = np.full((2, 30), SHARED, np.int32)
    row[0, [4, 7]], row[1, [7, 20]] = [0, 2], [1, AT_CENTER]
    by_variant = [hidden + shift for shift in shifts]
    by_variant[0][[4, 7]] = own_hidden[[0, 2]]
    by_variant[1][[7, 20]] = [own_hidden[1], np.zeros(41)]
    found = record(hidden, shifts, 3, cuts=(6, 21), own=Own(own_hidden, row))
    for v, expected in enumerate(by_variant):
        positive, selected = firsts_by_sorting(expected, 3)
        np.testing.assert_array_equal(found[0][v], positive)
        np.testing.assert_array_equal(found[1][v], selected)
