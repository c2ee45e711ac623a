"""MMCS, MCC and PW-MCC: closed forms, invariances, and a brute-force matching."""

import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from saelib import UserError, evaluation
from saelib.evaluation import directions


def random_directions(rows: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, d))


def expected_largest_cosine(rows: int, d: int) -> float:
    """The mean of the largest of `rows` cosines with random directions, from the law of one cosine t.

    (1 + t) / 2 is beta distributed, with both parameters (d - 1) / 2.
    """
    below = lambda t: special.betainc((d - 1) / 2, (d - 1) / 2, (1 + t) / 2) ** rows  # noqa: E731
    return 1 - integrate.quad(below, -1, 1)[0]


def test_mmcs_of_random_directions_is_its_closed_form() -> None:
    floor = expected_largest_cosine(100, 50)
    assert floor == pytest.approx(0.348, abs=5e-4)
    found = [
        evaluation.mmcs(random_directions(100, 50, 2 * seed), random_directions(100, 50, 2 * seed + 1))
        for seed in range(100)
    ]
    assert np.mean(found) == pytest.approx(floor, abs=4 * np.std(found) / math.sqrt(len(found)))
    assert abs(floor - 0.345) < np.std(found)  # the value of one draw that is quoted for the paper's sizes


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 7), st.integers(2, 6))
def test_the_laws(seed: int, rows: int, learned_rows: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    true, learned = rng.standard_normal((rows, d)), rng.standard_normal((learned_rows, d))
    mmcs, mcc = evaluation.mmcs(true, learned), evaluation.mcc(true, learned)
    # neither the order of the rows nor their lengths matter
    scaled = rng.permutation(learned) * rng.uniform(0.1, 10, (learned_rows, 1))
    assert evaluation.mmcs(rng.permutation(true), scaled) == pytest.approx(mmcs)
    assert evaluation.mcc(rng.permutation(true), scaled) == pytest.approx(mcc)
    # MCC knows no sign and is symmetric; MMCS is signed
    signs = rng.choice([-1, 1], (learned_rows, 1))
    assert evaluation.mcc(true, learned * signs) == pytest.approx(mcc)
    assert evaluation.mcc(learned, true) == pytest.approx(mcc)
    both = evaluation.mmcs(true, np.concatenate([learned, -learned]))
    assert both >= max(mmcs, evaluation.mmcs(true, -learned)) - 1e-12
    # rotations change nothing
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    assert evaluation.mmcs(true @ rotation, learned @ rotation) == pytest.approx(mmcs)
    assert evaluation.mcc(true @ rotation, learned @ rotation) == pytest.approx(mcc)


def test_what_is_learned_exactly_scores_one() -> None:
    true = random_directions(8, 5)
    assert evaluation.mmcs(true, true) == pytest.approx(1)
    assert evaluation.mcc(true, true) == pytest.approx(1)
    more = np.concatenate([random_directions(9, 5, 1), true])
    assert evaluation.mmcs(true, more) == evaluation.mcc(true, more) == pytest.approx(1)
    assert evaluation.mmcs(np.eye(3), -np.eye(3)) == 0


def test_one_learned_direction_serves_one_feature_in_mcc_and_all_in_mmcs() -> None:
    close = np.array([[1, 0.1], [1, 0.0], [1, -0.1]])
    assert evaluation.mmcs(close, [[1.0, 0], [0, 1]]) > 0.99
    found = evaluation.match(close, [[1.0, 0], [0, 1]])
    assert sorted(found.second) == [0, 1]
    assert evaluation.mcc(close, [[1.0, 0], [0, 1]]) == pytest.approx((1 + 0.1 / math.hypot(1, 0.1)) / 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_matching_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (directions.unit_rows(rng.standard_normal((n, 3))) for n in (4, 6))
    cosines = np.abs(first @ second.T)
    best = max(sum(cosines[i, j] for i, j in enumerate(order)) for order in permutations(range(6), 4))
    found = evaluation.match(first, second)
    assert found.cosines.sum() == pytest.approx(best)
    np.testing.assert_allclose(found.cosines, cosines[found.first, found.second])
    assert found.shared(0.7) == (found.cosines >= 0.7).sum()


def test_pw_mcc_is_the_mean_over_pairs() -> None:
    three = [random_directions(6, 4, seed) for seed in range(3)]
    found = evaluation.pw_mcc(three)
    expected = [evaluation.mcc(three[i], three[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.mean == pytest.approx(np.mean(expected))
    np.testing.assert_allclose(found.pairs, found.pairs.T)
    np.testing.assert_array_equal(np.diag(found.pairs), 1)
    assert found.pairs[0, 2] == expected[1]
    assert evaluation.pw_mcc([three[0], -three[0][::-1]]).mean == pytest.approx(1)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    true, learned = random_directions(23, 5), random_directions(7, 5, 1)
    whole = evaluation.mmcs(true, learned)
    monkeypatch.setattr(directions, "AT_A_TIME", 7 * 4)
    assert evaluation.mmcs(true, learned) == pytest.approx(whole, rel=1e-14)


def test_arrays_tensors_and_paths_give_the_same(tmp_path: Path) -> None:
    true, learned = (random_directions(6, 4, seed).astype(np.float32) for seed in range(2))
    np.save(tmp_path / "learned.npy", learned)
    expected = evaluation.mmcs(true, learned)
    for same in (torch.from_numpy(learned).requires_grad_(), tmp_path / "learned.npy", learned.tolist()):
        assert evaluation.mmcs(torch.from_numpy(true), same) == pytest.approx(expected, rel=1e-6)
    half = torch.from_numpy(learned).bfloat16()
    assert evaluation.mmcs(true, half) == pytest.approx(evaluation.mmcs(true, half.float()))


@pytest.mark.parametrize("size", [0, 1e-30, 1e30])
def test_zeros_and_extreme_lengths(size: float) -> None:
    true = np.eye(2, dtype=np.float32)
    learned = np.array([[size, 0], [0, 1]], np.float32)
    expected = 0.5 if size == 0 else 1
    assert evaluation.mmcs(true, learned) == evaluation.mcc(true, learned) == expected


@pytest.mark.parametrize(
    ("learned", "message"),
    [
        (np.zeros((3, 5)), "the first directions have 4 dimensions and the second 5"),
        (np.zeros(4), r"the second directions: got float64 of shape \[4\]; should be numbers \[rows, d\]"),
        (np.full((2, 4), np.nan), "the second directions: holds NaN or infinity"),
        (np.zeros((0, 4)), r"shape \[0, 4\]"),
        ("nowhere.npy", r"nowhere\.npy: no such file"),
    ],
)
def test_what_cannot_be_compared_is_said(learned: Any, message: str) -> None:
    for measure in (evaluation.mmcs, evaluation.mcc):
        with pytest.raises(UserError, match=message):
            measure(np.eye(4), learned)


def test_one_dictionary_has_no_pairs() -> None:
    with pytest.raises(UserError, match="got 1 dictionary; should be two or more"):
        evaluation.pw_mcc([np.eye(2)])
