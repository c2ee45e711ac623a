"""Measures trained SAEs, ours or anyone's.

These functions take numpy arrays, torch tensors and paths, and are loaded when they are first used:

    >>> from saelib import evaluation
    >>> evaluation.mmcs(np.eye(3), np.eye(3))
    1.0
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saelib.evaluation.concepts import ConceptMeter, ConceptScores, concept_scores
    from saelib.evaluation.core import CoreMeter, CoreMetrics, CoreReport, core_metrics
    from saelib.evaluation.dense import DenseLatents, dense_latents
    from saelib.evaluation.directions import Matching, PairwiseMCC, match, mcc, mmcs, pw_mcc
    from saelib.evaluation.features import FeatureMeter, FeatureScores, feature_scores
    from saelib.evaluation.labels import Labels
    from saelib.evaluation.monosemantic import MonosemanticityMeter, monosemanticity

__all__ = [
    "ConceptMeter",
    "ConceptScores",
    "CoreMeter",
    "CoreMetrics",
    "CoreReport",
    "DenseLatents",
    "FeatureMeter",
    "FeatureScores",
    "Labels",
    "Matching",
    "MonosemanticityMeter",
    "PairwiseMCC",
    "concept_scores",
    "core_metrics",
    "dense_latents",
    "feature_scores",
    "match",
    "mcc",
    "mmcs",
    "monosemanticity",
    "pw_mcc",
]

_HOMES = {
    "ConceptMeter": "concepts",
    "ConceptScores": "concepts",
    "CoreMeter": "core",
    "CoreMetrics": "core",
    "CoreReport": "core",
    "DenseLatents": "dense",
    "FeatureMeter": "features",
    "FeatureScores": "features",
    "Labels": "labels",
    "Matching": "directions",
    "MonosemanticityMeter": "monosemantic",
    "PairwiseMCC": "directions",
    "concept_scores": "concepts",
    "core_metrics": "core",
    "dense_latents": "dense",
    "feature_scores": "features",
    "match": "directions",
    "mcc": "directions",
    "mmcs": "directions",
    "monosemanticity": "monosemantic",
    "pw_mcc": "directions",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'saelib.evaluation' has no attribute '{name}'; it offers: {', '.join(__all__)}")
    value = getattr(import_module(f"saelib.evaluation.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, loaded or not."""
    return sorted({*globals(), *__all__})
