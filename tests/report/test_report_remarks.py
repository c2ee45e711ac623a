"""Remarks that differ in their numbers alone are told once, with ranges."""

import pytest

from saelib.report import Place
from saelib.report.remarks import grouped


def test_numbers_become_ranges_and_layers_are_joined():
    remarks = [
        (f"the largest norm is {size} times the median", Place("gpt2", layer)) for layer, size in ((2, 204), (3, 41))
    ]
    assert grouped(remarks) == [("the largest norm is 41 to 204 times the median", ["gpt2 layer 2-3"])]


def test_one_remark_keeps_its_words():
    text = "variance explained is 0.920 over all tokens and -1.500 of 256,000; layer 1-3 at 1e-05"
    assert grouped([(text, Place("gpt2", 1, "pca"))]) == [(text, ["gpt2 layer 1, pca"])]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (("-1.5", "0.2"), "-1.5 to 0.2"),
        (("9", "10"), "9 to 10"),
        (("2,000", "900"), "900 to 2,000"),
        (("3", "3.0"), "3"),
    ],
)
def test_ranges_go_by_value_and_keep_the_digits(numbers: tuple[str, str], said: str):
    ((text, _),) = grouped([(f"it is {number}.", Place("gpt2", 1)) for number in numbers])
    assert text == f"it is {said}."


def test_other_words_are_another_remark_and_variants_of_a_layer_stand_together():
    remarks = [
        ("2 dimensions are constant", Place("gpt2", 1)),
        ("2 dimensions vary little", Place("gpt2", 1)),
        *(("go by 1", Place("gpt2", 5, variant)) for variant in ("baseline", "auxk")),
        ("no result", None),
    ]
    assert grouped(remarks) == [
        ("2 dimensions are constant", ["gpt2 layer 1"]),
        ("2 dimensions vary little", ["gpt2 layer 1"]),
        ("go by 1", ["gpt2 layer 5, baseline, auxk"]),
        ("no result", ["every layer"]),
    ]
