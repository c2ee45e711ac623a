"""The examples of a latent are its strongest and random others, as a plain search finds them."""

import numpy as np
from scipy import sparse

from saelib.features.choose import BINS, LEVELS, RANDOM, REACH, TOP, latent_examples
from tests.features.conftest import random_codes

FIRST = np.array([0, 5, 40, 41, 60, 61, 62, 80, 90, 100, 130, 131, 160, 200, 220, 250])
TOKENS = 300


def bounds(example: int) -> slice:
    return slice(FIRST[example], [*FIRST[1:], TOKENS][example])


def test_top_examples_are_those_with_the_highest_peaks():
    codes = random_codes(TOKENS)
    dense = np.abs(codes.toarray())
    for latent, found in enumerate(latent_examples(codes, FIRST)):
        peaks = np.array([dense[bounds(example), latent].max() for example in range(len(FIRST))])
        chosen = peaks[[one.example for one in found.top]]
        np.testing.assert_array_equal(chosen, np.sort(peaks[peaks > 0])[::-1][:TOP])
        for one in found.top:
            assert one.peak == dense[bounds(one.example), latent].argmax()


def test_random_examples_are_others_in_which_it_fires():
    for found in latent_examples(random_codes(TOKENS), FIRST):
        top, drawn = {one.example for one in found.top}, [one.example for one in found.random]
        assert top.isdisjoint(drawn)
        assert drawn == sorted(set(drawn))
        assert all(len(one.tokens) for one in found.random)
        assert len(drawn) == RANDOM or len(top) + len(drawn) < TOP + RANDOM


def test_levels_give_the_activations_to_a_step_and_are_never_0():
    codes = random_codes(TOKENS)
    dense = codes.toarray()
    for latent, found in enumerate(latent_examples(codes, FIRST)):
        for one in (*found.top, *found.random):
            values = dense[bounds(one.example), latent]
            assert (one.levels != 0).all()
            np.testing.assert_array_equal(one.tokens, np.flatnonzero(values))
            restored = one.levels * found.largest / LEVELS
            np.testing.assert_allclose(restored, values[one.tokens], atol=found.largest / LEVELS)


def test_histogram_counts_every_activation():
    codes = random_codes(TOKENS)
    for latent, found in enumerate(latent_examples(codes, FIRST)):
        count = codes.indptr[latent + 1] - codes.indptr[latent]
        assert sum(found.histogram) == count
        assert len(found.histogram) == (BINS if count else 0)


def test_a_dead_latent_has_no_examples():
    found = next(latent_examples(random_codes(TOKENS), FIRST))
    assert found == (0.0, [], [], [])


def test_the_seed_decides_the_random_examples():
    def drawn(seed: int) -> list[list[int]]:
        found = latent_examples(random_codes(TOKENS), FIRST, seed)
        return [[one.example for one in latent.random] for latent in found]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_activations_far_from_the_peak_are_left_out_unless_the_whole_is_wanted():
    values = np.ones((1000, 1), np.float32)
    values[500] = 2
    codes = sparse.csc_array(values)
    (near,) = latent_examples(codes, np.array([0]))
    (whole,) = latent_examples(codes, np.array([0]), whole=True)
    assert near.top[0].tokens.tolist() == list(range(500 - REACH, 501 + REACH))
    assert len(whole.top[0].tokens) == 1000
