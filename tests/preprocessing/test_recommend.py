"""Laws of the recommendation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelib.preprocessing.recommend import (
    ACCEPTED_AFTER,
    ORDER,
    TOLERATED,
    MeasuredDeath,
    Recommendation,
    TrainedSAE,
    recommend,
)

deaths = st.fixed_dictionaries(
    {name: st.builds(MeasuredDeath, st.floats(0, 1), st.floats(0, 0.2), st.integers(1, 10)) for name in ORDER}
)


def exact(raw: float, center_median: float, pca: float) -> dict[str, MeasuredDeath]:
    values = zip(ORDER, (raw, center_median, pca), strict=True)
    return {name: MeasuredDeath(value, 0, 3) for name, value in values}


def chosen(measured: dict[str, MeasuredDeath]) -> Recommendation:
    found = recommend(measured)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("measured", "preprocessing"),
    [
        (exact(0, 0, 0), "raw"),
        (exact(0.01, 0, 0), "raw"),
        (exact(0.0101, 0.01, 0), "center_median"),
        (exact(0.94, 0.05, 0.01), "center_median"),
        (exact(0.94, 0.0501, 0.01), "pca"),
        (exact(0.94, 0.20, 0.30), "center_median"),
        (exact(0.20, 0.94, 0.30), "raw"),
        (exact(0.5, 0.5, 0.5), "raw"),
    ],
)
def test_the_simplest_that_leaves_few_dead_else_the_least_dead(measured: dict[str, MeasuredDeath], preprocessing: str):
    found = chosen(measured)
    assert found.preprocessing == preprocessing


def test_massive_tokens_do_not_mislead():
    """With 1 % massive tokens, gamma (5.7) and effective rank (7 %) say nothing; the mean would leave 85 % dead."""
    measured = exact(0.94, 0.0, 0.0) | {"center_mean": MeasuredDeath(0.85, 0, 3)}
    found = chosen(measured)
    assert found.preprocessing == "center_median"


def test_a_death_within_noise_of_the_limit_is_accepted():
    noisy = exact(0.012, 0, 0) | {"raw": MeasuredDeath(0.012, 0.002, 4)}
    assert chosen(noisy).preprocessing == "raw"
    steady = exact(0.012, 0, 0) | {"raw": MeasuredDeath(0.012, 0.0019, 4)}
    assert chosen(steady).preprocessing == "center_median"


@given(deaths)
def test_no_simpler_preprocessing_would_do(measured: dict[str, MeasuredDeath]):
    found = chosen(measured)
    for name in ORDER[: ORDER.index(found.preprocessing)]:
        assert measured[name].mean > ACCEPTED_AFTER[name]
    accepted = [name for name in ORDER if measured[name].mean <= ACCEPTED_AFTER[name] + measured[name].noise]
    least = min(death.mean for death in measured.values())
    assert found.preprocessing in accepted or (not accepted and measured[found.preprocessing].mean == least)


@given(deaths, st.sampled_from(ORDER))
def test_less_death_never_makes_a_preprocessing_less_recommended(measured: dict[str, MeasuredDeath], improved: str):
    before = chosen(measured)
    if before.preprocessing == improved:
        old = measured[improved]
        after = chosen(measured | {improved: MeasuredDeath(old.mean / 2, old.sd, old.seeds)})
        assert after.preprocessing == improved


@given(deaths, st.floats(0, 1))
def test_other_preprocessings_have_no_say(measured: dict[str, MeasuredDeath], other: float):
    assert recommend(measured | {"zscore": MeasuredDeath(other, 0, 3)}) == recommend(measured)


@given(deaths)
def test_the_reason_is_one_sentence_with_the_numbers(measured: dict[str, MeasuredDeath]):
    found = chosen(measured)
    assert found.reason.endswith(".")
    assert "\n" not in found.reason


def test_reasons_in_full():
    assert chosen(exact(0.94, 0.0601, 0)).reason == (
        "With PCA whitening, 0% of the latents are dead at initialization, against 94.0% with raw "
        "activations and 6.01% with centering on the geometric median."
    )
    assert chosen(exact(0.94, 0.5, 0.2)).reason == (
        "Nothing measured leaves few enough dead. Least with PCA whitening: 20.0% dead at initialization."
    )
    dinov2 = recommend(exact(0.509, 0.085, 0.005), trained(0.82, 0.83, -0.4))
    assert dinov2 == Recommendation(
        "center_median",
        "Nothing that reconstructs about as well as the best leaves few enough dead. Least with centering on the "
        "geometric median: 8.50% dead at initialization. Its trained SAE explains 83.0% of the typical token's "
        "variance, 6.00% dead. Not PCA whitening (0.50% dead at initialization): its trained SAE explains -40.0%, "
        "6.00% dead.",
    )


def trained(*explained: float) -> dict[str, TrainedSAE]:
    return {name: TrainedSAE(value, 0.06) for name, value in zip(ORDER, explained, strict=False)}


@pytest.mark.parametrize(
    ("measured", "explained", "preprocessing"),
    [
        (exact(0.5, 0.085, 0), (0.82, 0.83, 0.79), "pca"),  # within 5 points of the best
        (exact(0.5, 0.085, 0), (0.82, 0.83, 0.77), "center_median"),
        (exact(0.5, 0, 0), (0.90, 0.70, 0.70), "raw"),  # alone in reconstructing well: its death is the trade
        (exact(0.5, 0, 0), (0.40, 0.80, 0.90), "pca"),
        (exact(0, 0, 0), (0.40, 0.80, 0.80), "center_median"),
        (exact(0.5, 0.2, 0), (0.80, 0.90), "pca"),  # nothing was trained under it: death decides
    ],
)
def test_reconstruction_has_a_say(measured: dict[str, MeasuredDeath], explained: tuple[float, ...], preprocessing: str):
    found = recommend(measured, trained(*explained))
    assert found is not None
    assert found.preprocessing == preprocessing


@given(deaths, st.lists(st.floats(-2, 1), min_size=3, max_size=3))
def test_the_chosen_explains_about_as_much_as_any(measured: dict[str, MeasuredDeath], explained: list[float]):
    found = recommend(measured, trained(*explained))
    assert found is not None
    assert explained[ORDER.index(found.preprocessing)] >= max(explained) - TOLERATED
    if max(explained) - min(explained) <= TOLERATED:
        assert found.preprocessing == chosen(measured).preprocessing


def test_what_was_not_measured_is_not_recommended():
    assert recommend({}) is None
    assert recommend({"zscore": MeasuredDeath(0, 0, 3)}) is None
    only_raw = chosen({"raw": MeasuredDeath(0.9, 0, 3)})
    assert only_raw.preprocessing == "raw"
