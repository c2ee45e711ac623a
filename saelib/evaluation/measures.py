"""Measures one SAE after the pass: core figures, dense latents, concepts, probing, monosemanticity."""

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from saelib.config.evaluation import ProbingConfig
from saelib.evaluation.concepts import GOOD, ConceptMeter, ConceptScores, compare
from saelib.evaluation.core import CoreMetrics
from saelib.evaluation.dense import DENSE, DenseLatents, dense_latents
from saelib.evaluation.directions import unit_rows
from saelib.evaluation.example_labels import Halves, take
from saelib.evaluation.labels import Labels
from saelib.evaluation.layer_result import (
    ConceptFigures,
    CoreFigures,
    DenseFigures,
    MonosemanticityFigures,
    ProbingFigures,
)
from saelib.evaluation.monosemantic import monosemanticity
from saelib.evaluation.probing import probe_concepts

if TYPE_CHECKING:
    import polars as pl

COMPONENTS = 8
"""Leading principal components that dense latents are compared with."""


def core_figures(found: CoreMetrics) -> CoreFigures:
    """Gives the figures of a `CoreMetrics`, without the rate of each latent."""
    return CoreFigures(**{name: number(getattr(found, name)) for name in _names(CoreFigures)})  # pyright: ignore


def dense_figures(
    rates: NDArray[np.float64],
    directions: NDArray[np.floating],
    eigenvectors: NDArray[np.floating] | None,
    outlier_dimensions: list[int],
) -> DenseFigures:
    """Measures dense latents; overlaps with components are None without eigenvectors [d_in, d_in], in columns."""
    components = np.eye(1, directions.shape[1]) if eigenvectors is None else eigenvectors[:, :COMPONENTS].T
    found: DenseLatents = dense_latents(rates, directions, components, outlier_dimensions)
    values = {name: number(getattr(found, name)) for name in _names(DenseFigures)}
    if eigenvectors is None:
        values |= dict.fromkeys((name for name in values if name.endswith("in_components")), None)
    return DenseFigures(**values)  # pyright: ignore[reportArgumentType]


class LabeledTokens(NamedTuple):
    """The labels of both halves of the examples, with the concepts that both have often enough."""

    halves: Halves
    validation: Labels
    test: Labels

    @classmethod
    def of(cls, labels: Labels, halves: Halves, min_domains: int) -> "LabeledTokens":
        """Splits labels, and keeps the concepts with `min_domains` occurrences in each half."""
        parts = [take(labels, half) for half in halves]
        often = np.minimum(*(part.domain_counts for part in parts)) >= min_domains
        kept = [name for name, is_kept in zip(labels.concepts, often, strict=True) if is_kept]
        return cls(halves, *(part.select(kept) for part in parts))


class ConceptResult(NamedTuple):
    """Latents as detectors of concepts."""

    figures: ConceptFigures
    scores: ConceptScores
    concept: list[str | None]
    """[latents]: the concept that each detects best on the validation half; None if it detects none."""
    f1: list[float | None]
    """[latents]: its F1 per domain for that concept, on the test half."""


def score_concepts(codes: Any, labeled: LabeledTokens) -> ConceptResult:
    """Scores latents as detectors of concepts; `codes` is a `csr_array` [tokens, latents]."""
    chosen_codes = codes[labeled.halves.validation]
    maxima = chosen_codes.max(axis=0).toarray().ravel()
    validation, test = (ConceptMeter(labeled.validation.concepts, maxima) for _ in range(2))
    validation.add(chosen_codes, labeled.validation)
    test.add(codes[labeled.halves.test], labeled.test)
    scores = compare(validation, test)
    figures = ConceptFigures(
        len(scores.concepts), scores.coverage(GOOD), float(scores.f1_per_domain.mean()) if scores.concepts else 0.0
    )
    return ConceptResult(figures, scores, *_best_concepts(validation, test))


def _best_concepts(validation: ConceptMeter, test: ConceptMeter) -> tuple[list[str | None], list[float | None]]:
    latents = np.arange(len(validation.maxima))
    best, concept, measured = np.zeros(len(latents)), np.full(len(latents), -1), np.zeros(len(latents))
    for index in range(len(validation.concepts)):
        chosen, on_test = validation.scores(index).f1_per_domain, test.scores(index).f1_per_domain
        threshold = chosen.argmax(axis=1)
        better = chosen[latents, threshold] > best
        best[better], concept[better] = chosen[latents, threshold][better], index
        measured[better] = on_test[latents, threshold][better]
    names = [validation.concepts[index] if index >= 0 else None for index in concept]
    return names, [float(f1) if index >= 0 else None for f1, index in zip(measured, concept, strict=True)]


def probe(codes: Any, labeled: LabeledTokens, options: ProbingConfig, seed: int) -> "pl.DataFrame":
    """Probes for the most frequent concepts; one row per concept and k."""
    counts = np.minimum(labeled.validation.token_counts, labeled.test.token_counts)
    most = np.argsort(-counts, kind="stable")[: options.concepts]
    chosen = [labeled.validation.concepts[index] for index in sorted(most)]
    train, test = (part.select(chosen) for part in (labeled.validation, labeled.test))
    halves = (codes[half] for half in labeled.halves)
    return probe_concepts(next(halves), train, next(halves), test, options.ks, seed=seed)


def probing_figures(found: "pl.DataFrame") -> ProbingFigures | None:
    """Averages probes over concepts; None if there is none."""
    import polars as pl

    if found.is_empty():
        return None
    means = found.group_by("k").agg(pl.col("auc").mean()).sort("k")
    return ProbingFigures(found["concept"].n_unique(), tuple(means["k"].to_list()), tuple(means["auc"].to_list()))


def monosemanticity_figures(
    codes: Any, counts: NDArray[np.int64], embeddings: NDArray[np.floating]
) -> tuple[MonosemanticityFigures | None, NDArray[np.float64]]:
    """Scores latents by their mean activation on each example.

    Args:
        codes: A `csr_array` [tokens, latents].
        counts: Tokens of each example.
        embeddings: [examples, e]; rows of zeros for examples without one.
    """
    example = np.repeat(np.arange(len(counts)), counts)
    shares = sparse.csr_array((1 / counts[example], (example, np.arange(len(example)))), (len(counts), len(example)))
    known = np.flatnonzero((embeddings != 0).any(axis=1))
    scores = monosemanticity((shares @ codes)[known], embeddings[known])
    alive = scores[np.isfinite(scores)]
    if not len(alive):
        return None, scores
    total, n = unit_rows(embeddings[known].astype(np.float64)).sum(axis=0), len(known)
    any_pair = float((total @ total - n) / (n * (n - 1)))
    return MonosemanticityFigures(len(alive), float(alive.mean()), float(np.median(alive)), any_pair), scores


def latent_states(rates: NDArray[np.float64]) -> list[str]:
    """Calls each latent dead, alive or dense (it fires for more than 10 % of the tokens)."""
    return ["dead" if rate == 0 else "dense" if rate > DENSE else "alive" for rate in rates]


def number(value: Any) -> Any:
    """Gives a number for JSON: None instead of NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _names(kind: Any) -> list[str]:
    return [one.name for one in fields(kind)]
