"""Twins, pairs and comparisons of kinds, on dictionaries whose answer is known."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from saelib.config.evaluation import EvaluationConfig
from saelib.config.schema import Config
from saelib.evaluation.compared import comparisons_of, find_twins, pairs_of
from saelib.evaluation.judged import Judged, kinds_of


def judged(name: str, directions: np.ndarray, kind: str = "a") -> Judged:
    return Judged(name, kind, 0, True, directions.astype(np.float32), 1, None)


EYE = np.eye(4)
FIRST, TURNED = judged("first", EYE), judged("turned", EYE[[2, 0, 1, 3]])
ALL = {"first": np.ones(4, bool), "turned": np.ones(4, bool)}


def test_twins_are_the_same_directions():
    twins = find_twins(FIRST, [TURNED], ALL)
    assert twins.latent == [1, 2, 0, 3]
    assert twins.cosine == [1, 1, 1, 1]
    assert set(twins.sae) == {"turned"}


def test_a_dead_latent_is_no_twin():
    alive = ALL | {"turned": np.array([True, False, True, True])}
    twins = find_twins(FIRST, [TURNED], alive)
    assert twins.cosine[0] == 0
    assert twins.latent[0] != 1


def test_the_nearest_of_several_saes_is_the_twin_and_a_negative_is_none():
    opposite = judged("opposite", -EYE)
    near = judged("near", EYE + 0.1 * np.roll(EYE, 1, axis=1))
    alive = dict.fromkeys(("opposite", "near"), np.ones(4, bool))
    twins = find_twins(FIRST, [opposite, near], alive)
    assert twins.sae == ["near"] * 4
    assert twins.cosine == pytest.approx([1 / np.sqrt(1.01)] * 4)


def test_without_other_saes_there_are_no_twins():
    assert find_twins(FIRST, [], {}) == ([None] * 4, [None] * 4, [None] * 4)


def test_pairs_match_living_latents_one_to_one():
    alive = {"first": np.array([True, True, True, False]), "turned": np.ones(4, bool)}
    (pair,) = pairs_of([FIRST, TURNED], alive)
    assert (pair.mcc, pair.shared, pair.same_kind) == (1, 3, True)
    assert pairs_of([FIRST, TURNED], ALL | {"first": np.zeros(4, bool)}) == []


def test_comparisons_are_paired_over_items_and_over_seeds():
    items = np.random.default_rng(0).random(50)
    saes = [judged("r0", EYE, "r"), judged("r1", EYE, "r"), judged("b0", EYE, "b"), judged("c0", EYE, "c")]
    scores = {"f1": {"r0": items, "r1": items, "b0": items + 0.25}}
    (found,) = comparisons_of(scores, saes, ["r"])
    assert (found.kind, found.reference, found.seeds, found.reference_seeds, found.items) == ("b", "r", 1, 2, 50)
    assert found.difference == pytest.approx(0.25)
    assert found.smallest_reliable == pytest.approx(0, abs=1e-12)  # every item differs by the same


def test_two_references_are_compared_once_with_each_other():
    saes = [judged(name, EYE, name) for name in ("r", "wide", "b")]
    scores = {"f1": {"r": [0.1, 0.2], "wide": [0.2, 0.4], "b": [0.5, 0.7]}}
    found = comparisons_of(scores, saes, ["r", "wide"])
    assert [(one.kind, one.reference) for one in found] == [("wide", "r"), ("b", "r"), ("b", "wide")]
    assert [one.difference for one in found] == pytest.approx([0.15, 0.45, 0.3])


def test_one_item_is_compared_over_seeds_alone():
    saes = [judged(f"{kind}{seed}", EYE, kind) for kind in "rb" for seed in range(3)]
    scores = {"r0": [0.4], "r1": [0.5], "r2": [0.6], "b0": [0.8], "b1": [0.9], "b2": [1.0]}
    (found,) = comparisons_of({"mono": scores}, saes, ["r"])
    welch = ttest_ind([0.8, 0.9, 1.0], [0.4, 0.5, 0.6], equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high))
    assert (found.items, found.seeds) == (1, 3)
    assert comparisons_of({"mono": scores}, [saes[0], saes[3]], ["r"]) == []  # one item and one seed say nothing


def test_variants_that_differ_in_the_seed_alone_are_one_kind():
    variants = {"a": {}, "a1": {"seed": 1}, "wide": {"d_sae": 2048}, "wide1": {"d_sae": 2048, "seed": 1}}
    model = {"domain": "x", "source": {"family": "arrays", "files": {1: "x.npy"}}, "layers": 1}
    config = Config.model_validate({"models": {"m": model}, "train": {"variants": variants}})
    assert kinds_of(config) == {"a": "a", "a1": "a", "wide": "wide", "wide1": "wide"}
    assert EvaluationConfig().baselines == ("random", "neurons", "pca")
