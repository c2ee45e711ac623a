"""Measures trained SAEs, ours or anyone's.

These functions take numpy arrays, torch tensors and paths, and are loaded when they are first used:

    >>> from saelib import evaluation
    >>> evaluation.mmcs(np.eye(3), np.eye(3))
    1.0
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saelib.evaluation.annotations import Annotation, Record, label_residues, read_annotations, read_labels
    from saelib.evaluation.baselines import FixedDirections, neuron_sae, pca_sae, random_sae
    from saelib.evaluation.concepts import ConceptMeter, ConceptScores, concept_scores
    from saelib.evaluation.core import CoreMeter, CoreMetrics, CoreReport, core_metrics
    from saelib.evaluation.dense import DenseLatents, dense_latents
    from saelib.evaluation.differences import Difference, score_difference
    from saelib.evaluation.directions import Matching, PairwiseMCC, match, mcc, mmcs, pw_mcc
    from saelib.evaluation.encode import sparse_codes
    from saelib.evaluation.features import FeatureMeter, FeatureScores, feature_scores
    from saelib.evaluation.labels import Labels
    from saelib.evaluation.monosemantic import MonosemanticityMeter, monosemanticity
    from saelib.evaluation.probing import ProbeScores, k_sparse_probe, probe_concepts

__all__ = [
    "Annotation",
    "ConceptMeter",
    "ConceptScores",
    "CoreMeter",
    "CoreMetrics",
    "CoreReport",
    "DenseLatents",
    "Difference",
    "FeatureMeter",
    "FeatureScores",
    "FixedDirections",
    "Labels",
    "Matching",
    "MonosemanticityMeter",
    "PairwiseMCC",
    "ProbeScores",
    "Record",
    "concept_scores",
    "core_metrics",
    "dense_latents",
    "feature_scores",
    "k_sparse_probe",
    "label_residues",
    "match",
    "mcc",
    "mmcs",
    "monosemanticity",
    "neuron_sae",
    "pca_sae",
    "probe_concepts",
    "pw_mcc",
    "random_sae",
    "read_annotations",
    "read_labels",
    "score_difference",
    "sparse_codes",
]

_HOMES = {
    "Annotation": "annotations",
    "ConceptMeter": "concepts",
    "ConceptScores": "concepts",
    "CoreMeter": "core",
    "CoreMetrics": "core",
    "CoreReport": "core",
    "DenseLatents": "dense",
    "Difference": "differences",
    "FeatureMeter": "features",
    "FeatureScores": "features",
    "FixedDirections": "baselines",
    "Labels": "labels",
    "Matching": "directions",
    "MonosemanticityMeter": "monosemantic",
    "PairwiseMCC": "directions",
    "ProbeScores": "probing",
    "Record": "annotations",
    "concept_scores": "concepts",
    "core_metrics": "core",
    "dense_latents": "dense",
    "feature_scores": "features",
    "k_sparse_probe": "probing",
    "label_residues": "annotations",
    "match": "directions",
    "mcc": "directions",
    "mmcs": "directions",
    "monosemanticity": "monosemantic",
    "neuron_sae": "baselines",
    "pca_sae": "baselines",
    "probe_concepts": "probing",
    "pw_mcc": "directions",
    "random_sae": "baselines",
    "read_annotations": "annotations",
    "read_labels": "annotations",
    "score_difference": "differences",
    "sparse_codes": "encode",
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
