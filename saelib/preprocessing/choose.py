"""Choose a layer's preprocessing from its statistics alone, by the paper's rule: `{kind: auto, rule: paper}`.

The rule costs nothing, but a few massive tokens mislead it. `saelib.preprocessing.recommend`, which `auto` follows
without `rule`, decides better: it knows the death under each candidate.
"""

from typing import TYPE_CHECKING

from saelib.preprocessing.recommend import ACCEPTED, Recommendation, percent

if TYPE_CHECKING:
    from saelib.stats import LayerStats

LOW_RANK = 0.02
"""Effective rank, as a share of d_in, below which centering leaves latents dead (paper, appendix E and table S8)."""


def choose_preprocessing(stats: "LayerStats", d_sae: int, k: int, tokens: int) -> Recommendation:
    """Chooses `pca` for a low effective rank, else `center_median` if death is predicted, else `raw` (appendix E).

    Death is predicted from `gamma_unit` by `saelib.theory.closed_forms.dead_total`, as in the tables.

    Args:
        stats: statistics of the layer.
        d_sae: latents of the SAE.
        k: latents selected per token.
        tokens: tokens over which death is counted, at least 2.
    """
    if stats.gamma_unit is None or stats.effective_rank is None or stats.effective_rank_fraction is None:
        return Recommendation("raw", "gamma_unit is not defined for this layer, so nothing predicts death.")
    from saelib.theory import closed_forms  # imported here, because it needs scipy

    rank = f"effective rank {stats.effective_rank:.1f} of {stats.d_in} ({percent(stats.effective_rank_fraction)})"
    if stats.effective_rank_fraction < LOW_RANK:
        return Recommendation("pca", f"The {rank} is below {LOW_RANK:.0%}, where centering leaves latents dead.")
    dead = float(closed_forms.dead_total(stats.gamma_unit, d_sae, k, tokens))
    predicted = f"gamma_unit = {stats.gamma_unit:.3g} predicts {percent(dead)} dead at initialization"
    if dead > ACCEPTED:
        reason = f"{predicted}, more than {ACCEPTED:.0%}, and the {rank} asks for no whitening."
        return Recommendation("center_median", reason)
    return Recommendation("raw", f"{predicted}, no more than {ACCEPTED:.0%}, and the {rank} asks for no whitening.")
