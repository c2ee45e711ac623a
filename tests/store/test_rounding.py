"""Which rows float16 keeps well enough, and how this is decided."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saelib.activations.rows import ArrayRows, read_float32
from saelib.store.rounding import DIMENSION_ERROR, ROW_ERROR, Dimensions, choose_offset, lengths, round_rows, why_not

D = 24


def activations(rows: int, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, D)) + mean).astype(np.float32)


def deviations(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return np.linalg.norm(x - x.mean(1, keepdims=True), axis=1)


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), mean=st.floats(-6, 6), decades=st.floats(0, 30))
def test_a_row_that_counts_as_kept_comes_back_to_two_thousandths(seed: int, mean: float, decades: float) -> None:
    """In float64, from the definition; and what is not kept really is not, so that float32 is no waste."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-decades, 2, (64, 1))
    x = (sizes * random.standard_normal((64, D)) + 10.0**mean * random.standard_normal(D)).astype(np.float32)
    x[:5] = 0
    offset = choose_offset(x)
    rounded = round_rows(x, offset)
    with np.errstate(over="ignore", invalid="ignore"):
        back = read_float32(ArrayRows(rounded.halves, offset=offset), 0, len(x)).astype(np.float64)
        error = np.linalg.norm(back - x, axis=1)
        allowed = ROW_ERROR * deviations(x)
    assert (error[rounded.kept] <= 1.0001 * allowed[rounded.kept]).all()
    assert not (error[~rounded.kept] < 0.9999 * allowed[~rounded.kept]).any()


@pytest.mark.parametrize("mean", [0.0, 0.1, 3.3, 777.7, 6e4])
def test_zeros_come_back_as_zeros(mean: float) -> None:
    x = activations(500, mean=mean)
    x[::7] = 0
    x[:, 3] = 0
    offset = choose_offset(x)
    rounded = round_rows(x, offset)
    assert rounded.kept.all()
    for dtype in (np.float32, np.float64):  # however readers add
        assert ((rounded.halves.astype(dtype) + offset.astype(dtype) == 0) == (x == 0)).all()


def test_the_offset_is_of_the_bulk_and_exact_in_float16() -> None:
    x = activations(1000)
    x[:, 2] += 123.456
    x[:, 4] -= 1e5
    massive, padded = x.copy(), x.copy()
    massive[::3] *= 1e4
    padded[:900] = 0
    for first in (x, massive, padded):
        offset = choose_offset(first)
        assert offset[2] == pytest.approx(123.456, abs=1)
        assert offset[2] == np.float16(offset[2])
        assert offset[4] == pytest.approx(-1e5, abs=1)
        assert not np.delete(offset, [2, 4]).any()
    assert not choose_offset(np.zeros((5, D), np.float32)).any()


def test_a_dimension_must_keep_its_signal_too() -> None:
    """Beside a dimension with a large mean the row is kept, while what this dimension varies by is lost."""
    x = activations(2000)
    x[:, 3] += 3000
    rows, dimensions = round_rows(x, np.zeros(D, np.float32)), Dimensions(D)
    assert rows.kept.all()
    assert why_not(rows, dimensions, x) is not None
    assert dimensions.worst()[0] == 3
    column = rows.halves[:, 3].astype(np.float64)
    lost = (column - x[:, 3]).std() / column.std()
    assert dimensions.worst()[1] == pytest.approx(lost, rel=0.1)
    about, offset = Dimensions(D), choose_offset(x)
    assert why_not(round_rows(x, offset), about, x) is None
    assert about.worst()[1] < DIMENSION_ERROR / 10


def test_a_constant_dimension_is_no_reason_for_float32() -> None:
    x = activations(2000)
    x[:, 3] = 0.1
    assert why_not(round_rows(x, np.zeros(D, np.float32)), Dimensions(D), x) is None


def test_few_rows_do_not_speak_for_a_dimension() -> None:
    dimensions = Dimensions(D)
    for start in range(0, 200, 2):
        x = activations(2, start)
        x[:, 3] = 3000
        assert why_not(round_rows(x, np.zeros(D, np.float32)), dimensions, x) is None


@pytest.mark.parametrize("size", [1e-35, 1e-25, 1.0, 1e15, 1e30])
def test_lengths_of_any_size(size: float) -> None:
    x = (size * np.random.default_rng(0).standard_normal((50, D))).astype(np.float32)
    np.testing.assert_allclose(lengths(x), np.linalg.norm(x.astype(np.float64), axis=1), rtol=1e-6)
    assert np.isfinite(lengths(np.full((2, D), 3e38, np.float32))).all()
