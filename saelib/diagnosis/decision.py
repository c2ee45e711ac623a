"""The decision: which remedy, in words that say what was found, how sure that is, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from saelib.diagnosis.massive import MassiveTokens
from saelib.diagnosis.names import SHOWN_AS, Remedy
from saelib.diagnosis.result import DeadFractions
from saelib.preprocessing.recommend import ACCEPTED_AFTER, MeasuredDeath, percent, recommend
from saelib.stats.compute import effective_rank
from saelib.stats.layer_stats import LayerStats

REMEDIES: dict[str, Remedy] = {"raw": "none", "center_median": "mean_center", "pca": "pca_whiten"}
ADVICE = {"center_median": "Center on the geometric median", "pca": "Whiten by PCA"}
MOST = 0.5
"""A share of the mean's square that makes its dimensions the reason."""
AGREED = 0.02
"""Prediction and measurement that differ by no more than this, and two standard errors, say the same."""
WELL_SAMPLED = 5
"""Rows per dimension from which covariances can be trusted."""


@dataclass(frozen=True)
class Decision:
    """A remedy and its reasons."""

    preprocessing: str
    """`raw`, `center_median` or `pca`."""
    confidence: Literal["high", "moderate", "low"]
    reasons: list[str]
    verdict: str

    @property
    def remedy(self) -> Remedy:
        """The remedy, by its public name."""
        return REMEDIES[self.preprocessing]


def decide(
    stats: LayerStats,
    measured: Mapping[str, DeadFractions],
    predicted: Mapping[str, DeadFractions],
    massive: MassiveTokens,
    d_sae: int,
    floor: float,
) -> Decision:
    """Decides for the least invasive remedy that leaves few latents dead, by what was counted.

    Args:
        stats: Of the rows.
        measured: Preprocessing -> counted death; empty for an architecture that is only predicted.
        predicted: Preprocessing -> death by the cap law.
        massive: Tokens of extreme length.
        d_sae: Latents of the SAE.
        floor: Death that no preprocessing goes below with so many tokens.
    """
    dead = measured or predicted
    found = recommend({name: MeasuredDeath(of.dead_total, of.standard_error, 1) for name, of in dead.items()})
    assert found is not None
    chosen = found.preprocessing
    reasons = [_cause(stats), *_tried(chosen, dead), *_cost(chosen, floor, dead)]
    if massive.share > 0:
        reasons.append(_about_massive(massive))
    confidence, why = _confidence(stats, chosen, dead, predicted, bool(measured))
    return Decision(chosen, confidence, [*reasons, why], _verdict(chosen, dead, stats, d_sae))


def _verdict(
    chosen: str,
    dead: Mapping[str, DeadFractions],
    stats: LayerStats,
    d_sae: int,
) -> str:
    born = f"{percent(dead['raw'].dead_total).capitalize()} of {d_sae:,} latents will be born dead"
    if chosen == "raw":
        return f"{born}. Nothing needs to be done to these activations."
    first = f"{born}: {_carriers(stats)}."
    if chosen == "pca":
        left = percent(dead["center_median"].dead_total)
        rank = effective_rank(stats.arrays["eigenvalues"])  # of the tokens as they are, which is what an SAE reads
        first += f" Centering leaves {left}, because {rank:.3g} of {stats.d_in} directions hold the variance."
    return f"{first} {ADVICE[chosen]}: {percent(dead[chosen].dead_total)}."


def _carriers(stats: LayerStats) -> str:
    """Says who carries the mean; fits after a colon."""
    named = []
    for dimension in stats.outlier_dimensions:
        named.append(dimension)
        if (share := sum(one.share for one in named)) >= MOST:
            numbers = ", ".join(str(one.index) for one in named)
            subject = f"dimension {numbers} holds" if len(named) == 1 else f"dimensions {numbers} hold"
            return f"{subject} {percent(share)} of the mean's square"
    gamma = "not defined" if stats.gamma_unit is None else f"{stats.gamma_unit:.2g} times the spread"
    return f"the tokens' mean is {gamma}, and many dimensions share it"


def _cause(stats: LayerStats) -> str:
    if stats.gamma_unit is None:
        return "gamma_unit is not defined: all tokens point in one direction."
    return f"gamma_unit is {stats.gamma_unit:.3g}: {_carriers(stats)}."


def _tried(chosen: str, dead: Mapping[str, DeadFractions]) -> list[str]:
    """Says what each remedy leaves, from the least invasive to the chosen one, or to the last if none is accepted."""
    accepted = _accepted(chosen, dead[chosen])
    sentences = []
    for name in REMEDIES:
        if name not in dead:
            continue
        of = dead[name]
        sentences.append(
            f"{SHOWN_AS[name].capitalize()}: {percent(of.dead_total)} dead "
            f"({percent(of.dead_relu)} never positive, {percent(of.dead_topk_only)} never selected); "
            f"'{REMEDIES[name]}' is accepted up to {ACCEPTED_AFTER[name]:.0%}."
        )
        if name == chosen and accepted:
            return sentences
    return [*sentences, f"None of them is accepted; '{REMEDIES[chosen]}' leaves the fewest dead."]


def _accepted(name: str, of: DeadFractions) -> bool:
    """True if a death is accepted under a preprocessing, with two standard errors granted."""
    return of.dead_total <= ACCEPTED_AFTER[name] + 2 * of.standard_error


def _cost(chosen: str, floor: float, dead: Mapping[str, DeadFractions]) -> list[str]:
    sentences = []
    if chosen == "center_median":
        sentences.append("Centering costs nothing: b_dec starts at the center, and data and loss stay as they are.")
    if chosen == "pca":
        sentences.append(
            "Whitening changes the loss: all directions count alike, and the error in the model's own coordinates is "
            "several times that of a centered SAE. If that matters more than dead latents, center only."
        )
    if floor > 0.01:
        sentences.append(
            f"With so few tokens for such an SAE, {percent(floor)} of the latents stay unselected by chance whatever "
            "is done; more tokens bring them to life."
        )
    if "pca" not in dead:
        sentences.append("Whitening was not tried: there are too few rows for a covariance.")
    return sentences


def _about_massive(massive: MassiveTokens) -> str:
    where = ""
    if massive.position is not None and massive.at_position is not None:
        where = f"; {massive.at_position:.0%} of them stand at position {massive.position} of their example"
    return (
        f"{massive.share:.2%} of the tokens are massive (the longest is {massive.norm_ratio:,.0f} times the median "
        f"one){where}. They drag the plain mean away and hide the other tokens from gamma; the geometric median does "
        "not follow them."
    )


def _confidence(
    stats: LayerStats,
    chosen: str,
    dead: Mapping[str, DeadFractions],
    predicted: Mapping[str, DeadFractions],
    counted: bool,
) -> tuple[Literal["high", "moderate", "low"], str]:
    if stats.tokens < WELL_SAMPLED * stats.d_in:
        return "low", (
            f"Low confidence: {stats.tokens:,} rows are fewer than {WELL_SAMPLED} for each of {stats.d_in:,} "
            "dimensions."
        )
    if not _accepted(chosen, dead[chosen]):
        return "low", "Low confidence: no remedy is accepted."
    if not counted:
        return "moderate", "Moderate confidence: death of this architecture is predicted, and was not counted."
    near = [
        SHOWN_AS[name]
        for name in REMEDIES
        if name in dead and abs(dead[name].dead_total - ACCEPTED_AFTER[name]) < 2 * dead[name].standard_error
    ]
    if near:
        return "moderate", f"Moderate confidence: the death of activations {near[0]} lies within noise of the limit."
    apart = [
        name
        for name, of in dead.items()
        if abs(of.dead_total - predicted[name].dead_total)
        > AGREED + 2 * (of.standard_error + predicted[name].standard_error)
    ]
    if apart:
        return "moderate", f"Moderate confidence: prediction and count differ for activations {SHOWN_AS[apart[0]]}."
    return "high", "High confidence: count and prediction agree, and nothing lies near a limit."
