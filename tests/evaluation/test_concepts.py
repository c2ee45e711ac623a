"""Concept F1: a dense loop over latents, InterPLM's definitions by hand, batches, and the choice on validation."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.concepts import loop_over_latents, random_codes, random_labels
from saelib import UserError, evaluation
from saelib.evaluation.concepts import THRESHOLDS
from saelib.evaluation.labels import Labels

TOKENS, LATENTS, CONCEPTS = 240, 17, 6


def case(seed: int = 0) -> tuple[Any, Labels]:
    rng = np.random.default_rng(seed)
    return random_codes(rng, TOKENS, LATENTS, 4), random_labels(rng, TOKENS, CONCEPTS)


def counted(codes: Any, labels: Labels) -> evaluation.ConceptMeter:
    meter = evaluation.ConceptMeter(labels.concepts, codes.max(axis=0).toarray().ravel())
    meter.add(codes, labels)
    return meter


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_scores_are_those_of_a_dense_loop_over_latents(seed: int) -> None:
    codes, labels = case(seed)
    meter, dense = counted(codes, labels), codes.toarray()
    hits, fires, domains_hit = loop_over_latents(dense / np.maximum(dense.max(0), 1e-30), labels)
    for concept in range(CONCEPTS):
        found = meter.scores(concept)
        tokens, domains = (len(set(x[labels.concept == concept])) for x in (labels.token, labels.domain))
        assert (meter.tokens[concept], meter.domains[concept]) == (tokens, domains)
        precision = hits[concept] / np.maximum(fires, 1)
        recall, by_domain = hits[concept] / max(tokens, 1), domains_hit[concept] / max(domains, 1)
        np.testing.assert_allclose(found.precision, precision)
        np.testing.assert_allclose(found.recall, recall)
        np.testing.assert_allclose(found.recall_per_domain, by_domain)
        with np.errstate(invalid="ignore"):
            f1 = np.nan_to_num(2 * precision * by_domain / (precision + by_domain))
        np.testing.assert_allclose(found.f1_per_domain, f1)


def test_one_latent_by_hand() -> None:
    """Two domains of one concept, at tokens 0-2 and 5; the latent's largest activation is 10."""
    labels = Labels(8, ["site"], [0, 1, 2, 5], [0, 0, 0, 0], [0, 0, 0, 1])  # type: ignore[arg-type]
    codes = np.array([[10.0], [1], [0], [0], [5.5], [1.5], [0], [0]])
    found = counted_dense(codes, labels).scores(0)
    assert THRESHOLDS == (0, 0.15, 0.5, 0.6, 0.8)
    # 1.5 is 15 % of the maximum, which does not exceed a threshold of 15 %
    assert found.precision[0].tolist() == [3 / 4, 1 / 2, 1 / 2, 1, 1]
    assert found.recall[0].tolist() == [3 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 4]
    assert found.recall_per_domain[0].tolist() == [1, 1 / 2, 1 / 2, 1 / 2, 1 / 2]
    assert found.f1_per_domain[0, 0] == pytest.approx(2 * 0.75 / 1.75)
    assert found.best() == (0, 0)


def counted_dense(codes: np.ndarray, labels: Labels) -> evaluation.ConceptMeter:
    meter = evaluation.ConceptMeter(labels.concepts, codes.max(0))
    meter.add(torch.from_numpy(codes), labels)
    return meter


def test_a_token_in_two_domains_of_a_concept_counts_once() -> None:
    labels = Labels(3, ["helix"], [0, 1, 1, 2], [0, 0, 0, 0], [0, 0, 1, 1])  # type: ignore[arg-type]
    found = counted_dense(np.array([[0.0], [1], [0]]), labels).scores(0)
    assert found.precision[0, 0] == 1
    assert found.recall[0, 0] == pytest.approx(1 / 3)
    assert found.recall_per_domain[0, 0] == 1


def test_batches_of_whole_domains_change_nothing() -> None:
    rng = np.random.default_rng(3)
    parts = [(random_codes(rng, 80, LATENTS, 4), random_labels(rng, 80, CONCEPTS)) for _ in range(3)]
    maxima = np.max([codes.max(axis=0).toarray().ravel() for codes, _ in parts], axis=0)
    meter = evaluation.ConceptMeter(parts[0][1].concepts, maxima)
    whole = evaluation.ConceptMeter(parts[0][1].concepts, maxima)
    for codes, labels in parts:
        meter.add(codes, labels)
    offsets = [80 * number for number in range(3)]
    joined = Labels(
        240,
        parts[0][1].concepts,
        np.concatenate([labels.token + start for (_, labels), start in zip(parts, offsets, strict=True)]),
        np.concatenate([labels.concept for _, labels in parts]),
        np.concatenate([labels.domain + 1000 * number for number, (_, labels) in enumerate(parts)]),
    )
    whole.add(np.concatenate([codes.toarray() for codes, _ in parts]), joined)
    for concept in range(CONCEPTS):
        for one, other in zip(vars(meter.scores(concept)).values(), vars(whole.scores(concept)).values(), strict=True):
            np.testing.assert_array_equal(one, other)
    # the parts come back from the whole
    for (_, labels), (start, stop) in zip(parts, pairwise([0, 80, 160, 240]), strict=True):
        back = joined.rows(start, stop)
        assert sorted(zip(back.token, back.concept, strict=True)) == sorted(
            zip(labels.token, labels.concept, strict=True)
        )


def test_the_scale_of_latents_and_their_order_change_nothing() -> None:
    codes, labels = case()
    rng = np.random.default_rng(1)
    order, expected = rng.permutation(LATENTS), counted(codes, labels).scores(2)
    scale = 2.0 ** rng.integers(-8, 8, LATENTS)
    found = counted((codes * scale).tocsr()[:, order], labels).scores(2)
    np.testing.assert_array_equal(found.f1_per_domain, expected.f1_per_domain[order])


def test_the_latent_and_threshold_are_chosen_on_validation_and_measured_on_test() -> None:
    """Latent 0 is right on validation tokens alone, latent 1 nearly right on both; a test could not have known."""
    label = np.array([1, 1, 0, 0, 0, 0, 1, 1], bool)
    labels = Labels.of_rows(np.where(label, "yes", "").tolist())
    noise = np.array([0, 0, 1, 1, 1, 1, 0, 0])
    good = label.astype(float)
    good[3] = 0.3
    validation, test = np.stack([label * 1.0, good], axis=1), np.stack([noise * 1.0, good], axis=1)
    found = evaluation.concept_scores(validation, labels, test, labels)
    assert found.latent.tolist() == [0]
    assert found.validation_f1_per_domain.tolist() == [1]
    assert found.f1_per_domain.tolist() == [0]
    assert found.coverage() == 0
    # latent 1 is above 0.5 on both, at a threshold that leaves its false firing out
    assert found.pairs.tolist() == [[0, 1]]
    alone = evaluation.concept_scores(validation[:, 1:], labels, test[:, 1:], labels)
    assert (alone.threshold.tolist(), alone.f1_per_domain.tolist()) == ([0.5], [1])
    assert alone.coverage() == 1


def test_thresholds_from_the_test_tokens_score_at_least_as_well() -> None:
    (codes, labels), (other_codes, other_labels) = case(0), case(1)
    strict = evaluation.concept_scores(codes, labels, other_codes, other_labels)
    kind = evaluation.concept_scores(codes, labels, other_codes, other_labels, threshold_from="test")
    np.testing.assert_array_equal(kind.latent, strict.latent)
    assert (kind.f1_per_domain >= strict.f1_per_domain).all()
    assert (kind.f1_per_domain > strict.f1_per_domain).any()


def test_the_table_has_a_row_per_concept_of_both() -> None:
    (codes, labels), (other_codes, other_labels) = case(0), case(1)
    table = evaluation.concept_scores(codes, labels, other_codes, other_labels.select(labels.concepts[1:4])).table()
    assert sorted(table["concept"]) == list(labels.concepts[1:4])
    assert table["f1_per_domain"].is_sorted(descending=True)
    assert {"latent", "threshold", "precision", "recall_per_domain", "tokens", "domains"} <= set(table.columns)


def test_a_concept_without_any_latent() -> None:
    labels = Labels.of_rows(["a", "", "", ""])
    codes = np.array([[0.0], [1], [0], [2]])
    found = evaluation.concept_scores(codes, labels, codes, labels)
    assert (found.latent.tolist(), found.f1_per_domain.tolist()) == ([-1], [0])
    assert len(evaluation.concept_scores(codes, labels.select([]), codes, labels).concepts) == 0


def test_what_does_not_fit_is_said() -> None:
    codes, labels = case()
    meter = counted(codes, labels)
    with pytest.raises(UserError, match=r"codes: has the shape \[239, 17\]; should be \[240, 17\]"):
        meter.add(codes[1:], labels)
    with pytest.raises(UserError, match="other concepts than the batches before"):
        meter.add(codes, labels.select(labels.concepts[:2]))
    with pytest.raises(UserError, match=r"thresholds: got \[0\.5, 0\.2\]; should be increasing"):
        evaluation.ConceptMeter(["a"], [1.0], [0.5, 0.2])
