"""The results of a layer's evaluation, as its files hold them. This module reads them without torch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saelib.config.sites import Site
from saelib.errors import UserError
from saelib.files.sealed import read_result

SCHEMA = 1
"""Version of `SAEEvaluation` and `LayerEvaluation`; a file of another version is refused."""


@dataclass(frozen=True)
class CoreFigures:
    """Figures over some tokens, by the names of SAEBench (docs/evaluation.md). None: not defined on these tokens."""

    tokens: int
    explained_variance: float | None
    mse: float
    cossim: float | None
    l2_ratio: float | None
    relative_reconstruction_bias: float | None
    l0: float
    freq_over_1_percent: float


@dataclass(frozen=True)
class Histogram:
    """Numbers of latents by firing rate."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    dead: int


@dataclass(frozen=True)
class DenseFigures:
    """Latents that fire for more than 10 % of the tokens. Overlaps are None if there are no such latents."""

    share: float
    in_components: float | None
    others_in_components: float | None
    chance_in_components: float | None
    in_outlier_dimensions: float | None
    others_in_outlier_dimensions: float | None
    chance_in_outlier_dimensions: float | None


@dataclass(frozen=True)
class ConceptFigures:
    """Latents as detectors of annotated concepts: F1 per domain on the test half."""

    concepts: int
    """Concepts that were scored."""
    covered: int
    """Concepts whose chosen latent has an F1 above 0.5."""
    mean_f1: float
    """Mean over concepts."""


@dataclass(frozen=True)
class ProbingFigures:
    """Mean AUC over concepts of probes on k latents."""

    concepts: int
    ks: tuple[int, ...]
    auc: tuple[float, ...]


@dataclass(frozen=True)
class MonosemanticityFigures:
    """Monosemanticity scores of the latents that at least two examples activate."""

    latents: int
    mean: float
    median: float
    any_pair: float
    """Mean cosine of two different examples, which a latent that fires at random scores."""


@dataclass(frozen=True)
class CELossFigures:
    """The model's loss with and without the SAE, in nats per token, and SAEBench's score."""

    tokens: int
    """Predicted tokens."""
    ce_loss_with_ablation: float
    """Activations are replaced by zeros."""
    ce_loss_with_sae: float
    """Activations are replaced by reconstructions."""
    ce_loss_without_sae: float
    ce_loss_score: float | None
    """(ablation - sae) / (ablation - without): 1 if nothing is lost."""


@dataclass(frozen=True)
class SAEEvaluation:
    """Everything that is measured of one SAE: `SAE/evaluation.json`."""

    schema: int
    model: str
    layer: int
    site: Site
    sae: str
    kind: str
    """Variant of which the SAE is one seed, or the baseline."""
    seed: int
    trained: bool
    d_in: int
    d_sae: int
    k: int | None
    examples: int
    tokens: int
    massive_norm: float
    """The length above which a token is massive."""
    all: CoreFigures
    typical: CoreFigures
    """The same figures over tokens that are not massive."""
    token_fvu_median: float
    """Median of each token's squared error over its squared distance from the geometric median of training rows."""
    dead_relu: float
    dead_topk_only: float
    dead_total: float
    histogram: Histogram
    dense: DenseFigures
    twin_cosine_mean: float | None = None
    """Mean over living latents of the cosine with the most similar latent of another trained SAE."""
    concepts: ConceptFigures | None = None
    probing: ProbingFigures | None = None
    monosemanticity: MonosemanticityFigures | None = None
    ce_loss: CELossFigures | None = None


@dataclass(frozen=True)
class Pair:
    """Two trained SAEs of a layer, by their living latents."""

    first: str
    second: str
    same_kind: bool
    """True if they differ in the seed alone."""
    mcc: float
    """Mean |cosine| of latents matched one-to-one."""
    shared: int
    """Matched latents with a |cosine| of at least 0.7."""


@dataclass(frozen=True)
class Comparison:
    """A kind of SAE minus a reference, with a 95 % interval over items and seeds."""

    measure: str
    """`example_fvu` (lower is better), `concept_f1`, `probe_auc` or `monosemanticity` (higher is better)."""
    kind: str
    reference: str
    difference: float
    low: float
    high: float
    smallest_reliable: float
    """A smaller difference could be chance."""
    items: int
    seeds: int
    """Seeds of the kind."""
    reference_seeds: int


@dataclass(frozen=True)
class LayerEvaluation:
    """The evaluation of all SAEs of a layer: `evaluation.json`, the last file that is written."""

    schema: int
    key: str
    model: str
    layer: int
    site: Site
    saes: tuple[str, ...]
    pairs: tuple[Pair, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    """Sentences on what could not be measured, and why."""


def load_layer(path: Path) -> tuple[LayerEvaluation, list[SAEEvaluation]]:
    """Reads `evaluation.json` of a layer and of each of its SAEs.

    Raises:
        UserError: If a file is missing, damaged or of another version; the message names the file and the field.
    """
    layer = _checked(read_result(LayerEvaluation, path), path)
    files = [path.parent / name / path.name for name in layer.saes]
    return layer, [_checked(read_result(SAEEvaluation, file), file) for file in files]


def as_json(result: "SAEEvaluation | LayerEvaluation") -> dict[str, Any]:
    """Gives a result as JSON, without the key, which `write_result` adds."""
    return {name: value for name, value in asdict(result).items() if name != "key"}


def _checked(result: Any, path: Path) -> Any:
    if result.schema != SCHEMA:
        raise UserError(f"{path}: schema {result.schema}; this version of saelib reads {SCHEMA}")
    return result
