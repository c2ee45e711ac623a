"""Labels of tokens: counting, selecting, cutting and joining, and refusals."""

from typing import Any

import numpy as np
import pytest

from saelib import UserError, evaluation
from saelib.evaluation.labels import Labels


def labels() -> Labels:
    """A helix at tokens 0-2, another at 4, a strand at 2-3."""
    return Labels(6, ["helix", "strand"], [0, 1, 2, 4, 2, 3], [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 2, 2])  # type: ignore[arg-type]


def test_counts_and_matrix() -> None:
    assert labels().token_counts.tolist() == [4, 2]
    assert labels().table() == {"helix": 2, "strand": 1}
    expected = np.array([[1, 1, 1, 0, 1, 0], [0, 0, 1, 1, 0, 0]], bool).T
    np.testing.assert_array_equal(labels().matrix().toarray(), expected)
    assert repr(labels()) == "Labels(6 tokens, 2 concepts, 3 domains)"


def test_frequent_concepts_have_many_tokens_or_many_domains() -> None:
    assert labels().frequent(3, 9).concepts == ("helix",)
    assert labels().frequent(9, 0).concepts == ("helix", "strand")
    assert labels().frequent(9, 1).concepts == ("helix",)


def test_selected_concepts_keep_their_tokens_in_the_order_that_is_asked_for() -> None:
    swapped = labels().select(["strand", "helix"])
    np.testing.assert_array_equal(swapped.matrix().toarray(), labels().matrix().toarray()[:, ::-1])
    with pytest.raises(UserError, match="there is no concept 'turn'"):
        labels().select(["turn"])


def test_a_concept_of_the_same_occurrences_counts_once() -> None:
    """`coil` is the helices under another name; `one` has their tokens in one occurrence, and `half` some of them."""
    coil, one, half = ([0, 1, 2, 4], [9, 9, 9, 7]), ([0, 1, 2, 4], [3, 3, 3, 3]), ([0, 1, 2], [4, 4, 4])
    first = labels()
    token, concept, domain = (list(values) for values in (first.token, first.concept, first.domain))
    for number, (tokens, domains) in enumerate((coil, one, half), 2):
        token, concept, domain = token + tokens, concept + [number] * len(tokens), domain + domains
    several = Labels(6, ("helix", "strand", "coil", "one", "half"), token, concept, domain)  # type: ignore[arg-type]
    assert several.distinct().concepts == ("helix", "strand", "one", "half")
    assert several.distinct().table() == {"helix": 2, "strand": 1, "one": 1, "half": 1}


def test_columns_join_and_missing_values_are_no_concept() -> None:
    kind = Labels.of_rows(["a", None, "b", float("nan"), "a", ""], prefix="kind_")
    assert (kind.tokens, kind.table()) == (6, {"kind_a": 2, "kind_b": 1})
    joined = Labels.joined([labels(), kind])
    assert joined.table() == labels().table() | kind.table()
    np.testing.assert_array_equal(
        joined.matrix().toarray(), np.hstack([labels().matrix().toarray(), kind.matrix().toarray()])
    )
    with pytest.raises(UserError, match="two parts have a concept of the same name"):
        Labels.joined([kind, kind])
    with pytest.raises(UserError, match=r"labels of \[6, 1\] tokens"):
        Labels.joined([kind, Labels.of_rows(["a"])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": [0, 6]}, "token holds 0 to 6; should be from 0 to 5"),
        ({"concept": [0, 1]}, "concept holds 0 to 1; should be from 0 to 0"),
        ({"domain": [0]}, r"domain should be whole numbers \[2\]"),
        ({"domain": [0.5, 1]}, r"domain should be whole numbers \[2\]"),
        ({"domain": [-1, 1]}, "domain holds -1"),
        ({"concepts": ["a", "b"], "concept": [0, 1]}, "a domain has two concepts"),
    ],
)
def test_impossible_labels_are_refused(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"tokens": 6, "concepts": ["a"], "token": [0, 1], "concept": [0, 0], "domain": [0, 0]}
    with pytest.raises(UserError, match=message):
        evaluation.Labels(**(fields | change))
