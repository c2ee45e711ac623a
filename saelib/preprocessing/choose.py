"""The paper's rule for a layer's preprocessing, from statistics alone: what the preprocessing `auto` becomes.

Where death under the candidates has been measured, `saelib.preprocessing.recommend` decides better; this rule costs
nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from saelib.config.training import PlainPreprocessing

if TYPE_CHECKING:
    from saelib.stats import LayerStats

ACCEPTED = 0.01
"""Total death that is not worth a preprocessing: 1 % of the features."""

LOW_RANK = 0.02
"""Effective rank, as a share of d_in, below which centering leaves features dead (paper, appendix E and table S8)."""


@dataclass(frozen=True)
class Choice:
    """A preprocessing and one sentence that says why."""

    preprocessing: PlainPreprocessing
    reason: str


def choose_preprocessing(stats: "LayerStats", d_sae: int, k: int, tokens: int) -> Choice:
    """`pca` for a low effective rank, else `center_median` where death is predicted, else `raw` (paper, appendix E).

    Death is predicted from `gamma_unit` by `theory.dead_total`, as in the tables.

    Args:
        stats: Of the layer.
        d_sae: Latents of the SAE.
        k: Latents selected for a token.
        tokens: That death is counted over, at least 2.
    """
    if stats.gamma_unit is None or stats.effective_rank is None or stats.effective_rank_fraction is None:
        reason = "gamma_unit is not defined for this layer, so nothing predicts death."
        return Choice(PlainPreprocessing(kind="raw"), reason)
    from saelib import theory  # which needs scipy: only where it is used

    rank = f"effective rank {stats.effective_rank:.1f} of {stats.d_in} ({percent(stats.effective_rank_fraction)})"
    if stats.effective_rank_fraction < LOW_RANK:
        reason = f"The {rank} is below {LOW_RANK:.0%}, where centering leaves features dead."
        return Choice(PlainPreprocessing(kind="pca"), reason)
    dead = float(theory.dead_total(stats.gamma_unit, d_sae, k, tokens))
    predicted = f"gamma_unit = {stats.gamma_unit:.3g} predicts {percent(dead)} dead at initialization"
    if dead > ACCEPTED:
        reason = f"{predicted}, more than {ACCEPTED:.0%}, and the {rank} asks for no whitening."
        return Choice(PlainPreprocessing(kind="center_median"), reason)
    reason = f"{predicted}, no more than {ACCEPTED:.0%}, and the {rank} asks for no whitening."
    return Choice(PlainPreprocessing(kind="raw"), reason)


def percent(fraction: float) -> str:
    """Write a rate with enough digits to tell a few dead features from none, and 1.01% from the limit of 1%."""
    if fraction == 0:
        return "0%"
    if fraction < 0.00005:
        return "<0.01%"
    return f"{fraction:.2%}" if fraction < 0.1 else f"{fraction:.1%}"
