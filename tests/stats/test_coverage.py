"""How often 95 % intervals contain the true rank correlation, in a few of the settings that the benchmark simulates.

`python -m benchmarks coverage` prints the whole table. The bounds leave a right interval one chance in 10,000 to fail.
"""

import pytest
from scipy.stats import binom

from benchmarks.coverage import PUBLISHED, SUITE, UNEQUAL, Coverage, Setting, cover

DRAWS = 250


def assert_covers(found: Coverage, least: float, most: float = 1.0) -> None:
    low, high = (binom.ppf(chance, found.with_interval, share) for chance, share in ((1e-4, least), (1 - 1e-4, most)))
    assert low <= found.held * found.with_interval <= high


@pytest.mark.parametrize("rho", [0.0, 0.98])
@pytest.mark.parametrize("ties", ["none", "60 % of y", "five values"])
@pytest.mark.parametrize("rows", [5, 8, 20])
def test_few_rows(rows: int, ties: str, rho: float) -> None:
    assert_covers(cover(Setting((rows,), 0, rho, 0, ties), DRAWS), 0.95)


@pytest.mark.parametrize(("ties", "rho"), [("none", 0.0), ("none", 0.98), ("80 % of y", 0.5), ("five values", 0.9)])
def test_many_rows_are_neither_missed_nor_drowned(ties: str, rho: float) -> None:
    assert_covers(cover(Setting((100,), 0, rho, 0, ties), DRAWS), 0.94, 0.98)


@pytest.mark.parametrize("ties", ["none", "60 % of y"])
@pytest.mark.parametrize("kind", [(0.0, 0.8, 0.8), (0.98, 0.98, 0.8)])
@pytest.mark.parametrize(
    "sizes", [(8,) * 3, SUITE, (8,) * 8, UNEQUAL * 2, PUBLISHED], ids=["3", "5", "8", "10 unequal", "19"]
)
def test_whole_models(sizes: tuple[int, ...], kind: tuple[float, float, float], ties: str) -> None:
    assert_covers(cover(Setting(sizes, *kind, ties), DRAWS), 0.93)


def test_rows_of_models_taken_for_independent_cover_far_less() -> None:
    for kind in ((0.9, 0.9, 0.7), (0.0, 0.8, 0.8)):
        found = cover(Setting(SUITE, *kind, "none"), 100, by_rows=True)
        assert found.held_rows is not None
        assert found.held_rows < 0.75
