"""The rules by which `auto` becomes a preprocessing.

Each is a module with a function `choose`, and is imported by name: the key of a training covers the code of its own
rule (`saelib.pipeline.targets`), so that a change to a rule recomputes only what it chose.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from saelib.config import TrainConfig, VariantConfig
from saelib.config.preprocessings import AutoPreprocessing

if TYPE_CHECKING:
    from saelib.preprocessing.recommend import Recommendation
    from saelib.stats import LayerStats
    from saelib.train.start import LayerData
    from saelib.train.sweep import Subject

RULES = {"measured": "saelib.train.measured_rule", "paper": "saelib.train.paper_rule"}
"""`rule` of `AutoPreprocessing` -> the module that decides."""


def rule_modules(variant: VariantConfig) -> list[str]:
    """The module that decides the variant's preprocessing; none if the config names a preprocessing."""
    auto = variant.preprocessing
    return [RULES[auto.rule]] if isinstance(auto, AutoPreprocessing) else []


def choose(
    data: "LayerData", stats: "LayerStats", config: TrainConfig, variant: VariantConfig, subject: "Subject", seed: int
) -> "Recommendation | None":
    """Chooses the preprocessing of a variant whose config says `auto`; None if it says something else.

    Args:
        data: The layer's rows and statistics.
        stats: The scalars of the same statistics.
        config: `d_sae` and `k`.
        variant: The rule and the architecture.
        subject: Names for messages.
        seed: Seed of random choices.
    """
    for module in rule_modules(variant):
        return import_module(module).choose(data, stats, config, variant, subject, seed)
    return None
