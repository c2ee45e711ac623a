"""Choose a layer's preprocessing from its statistics alone, by the paper's rule: `{kind: auto, rule: paper}`.

The rule costs nothing, but a few massive tokens mislead it. `saelib.preprocessing.recommend`, which `auto` follows
without `rule`, decides better: it knows the death under each candidate.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from saelib.config.training import PlainPreprocessing

if TYPE_CHECKING:
    from saelib.stats import LayerStats

ACCEPTED = 0.01
"""Total death up to which a preprocessing is not worthwhile: 1 % of the latents."""

LOW_RANK = 0.02
"""Effective rank, as a share of d_in, below which centering leaves features dead (paper, appendix E and table S8)."""


@dataclass(frozen=True)
class Choice:
    """A preprocessing, and one sentence that says why it was chosen."""

    preprocessing: PlainPreprocessing
    reason: str


def choose_preprocessing(stats: "LayerStats", d_sae: int, k: int, tokens: int) -> Choice:
    """Choose `pca` for a low effective rank, else `center_median` if death is predicted, else `raw` (appendix E).

    Death is predicted from `gamma_unit` by `theory.dead_total`, as in the tables.

    Args:
        stats: statistics of the layer.
        d_sae: latents of the SAE.
        k: latents selected per token.
        tokens: tokens over which death is counted, at least 2.
    """
    if stats.gamma_unit is None or stats.effective_rank is None or stats.effective_rank_fraction is None:
        reason = "gamma_unit is not defined for this layer, so nothing predicts death."
        return Choice(PlainPreprocessing(kind="raw"), reason)
    from saelib import theory  # imported here, because it needs scipy

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
