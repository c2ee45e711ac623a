"""`{kind: auto, rule: paper}`: the paper's rule, from a layer's statistics alone."""

from typing import TYPE_CHECKING

from saelib.config import TrainConfig, VariantConfig
from saelib.preprocessing.choose import choose_preprocessing
from saelib.preprocessing.recommend import Recommendation

if TYPE_CHECKING:
    from saelib.stats import LayerStats
    from saelib.train.start import LayerData
    from saelib.train.sweep import Subject


def choose(
    data: "LayerData", stats: "LayerStats", config: TrainConfig, variant: VariantConfig, subject: "Subject", seed: int
) -> Recommendation:
    """Chooses by effective rank and by the death that `gamma_unit` predicts on the held-out tokens."""
    return choose_preprocessing(stats, config.d_sae, config.k, data.heldout.shape[0])
