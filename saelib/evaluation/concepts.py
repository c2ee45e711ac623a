"""F1 of latents as detectors of annotated concepts, as InterPLM defines it, from sparse codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelib.errors import UserError
from saelib.evaluation.inputs import Codes, read_codes
from saelib.evaluation.labels import Labels

if TYPE_CHECKING:
    import polars as pl

THRESHOLDS = (0.0, 0.15, 0.5, 0.6, 0.8)
"""Activations, as fractions of a latent's maximum, above which it counts as firing: InterPLM's."""
GOOD = 0.5
"""F1 above which a latent counts as a detector of a concept: InterPLM's."""


class ConceptMeter:
    """Counts how latents and concepts meet, batch by batch, in memory [concepts, latents, thresholds].

    Time grows with the number of latents that fire for labeled tokens, and not with the number of all latents.
    """

    def __init__(self, concepts: Sequence[str], maxima: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> None:
        """Starts without tokens.

        Args:
            concepts: Names of the concepts.
            maxima: The largest activation of each latent, [latents], best from tokens that are not counted here.
            thresholds: Fractions of the maximum, increasing, from 0.

        Raises:
            UserError: If thresholds do not increase, or if maxima are not one finite number per latent.
        """
        self.concepts, self.thresholds = tuple(concepts), np.asarray(thresholds, np.float64)
        self.maxima = np.asarray(maxima, np.float64)
        if not 1 <= len(self.thresholds) < 255 or self.thresholds[0] < 0 or (np.diff(self.thresholds) <= 0).any():
            raise UserError(f"thresholds: got {list(thresholds)}; should be increasing, from 0 or more")
        if self.maxima.ndim != 1 or not np.isfinite(self.maxima).all():
            raise UserError(f"maxima: has the shape {list(self.maxima.shape)}; should be finite numbers [latents]")
        latents, levels = len(self.maxima), len(self.thresholds)
        self._hits = np.zeros((len(self.concepts), latents, levels), np.int32)
        self._domains_hit = np.zeros_like(self._hits)
        self._fires = np.zeros((latents, levels), np.int64)
        self._tokens, self._domains = (np.zeros(len(self.concepts), np.int64) for _ in range(2))

    def add(self, codes: Codes, labels: Labels) -> None:
        """Adds a batch of whole examples, because a domain that is split over two batches counts twice.

        Args:
            codes: Codes of the tokens, [tokens, latents], dense or sparse; values below 0 count as not firing.
            labels: Labels of these tokens, with the concepts of this meter.

        Raises:
            UserError: If sizes or concepts differ, or if a value is NaN or infinite.
        """
        from saelib.evaluation.concept_kernels import count

        read = read_codes(codes, "codes")
        if read.shape != (labels.tokens, len(self.maxima)):
            raise UserError(f"codes: has the shape {list(read.shape)}; should be [{labels.tokens}, {len(self.maxima)}]")
        if labels.concepts != self.concepts:
            raise UserError("labels: have other concepts than the batches before; use Labels.select")
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = read.data / self.maxima[read.indices]
        levels = np.searchsorted(self.thresholds, scaled, side="left").astype(np.uint8)
        levels[read.data <= 0] = 0
        fires = np.bincount(
            read.indices[levels > 0] * len(self.thresholds) + levels[levels > 0] - 1, minlength=self._fires.size
        )
        self._fires += fires.reshape(self._fires.shape)
        self._tokens += labels.token_counts
        self._domains += labels.domain_counts
        order = np.lexsort((labels.token, labels.domain))
        token, concept, domain = labels.token[order], labels.concept[order], labels.domain[order]
        is_first = np.zeros(len(order), bool)
        is_first[np.unique(token * len(self.concepts) + concept, return_index=True)[1]] = True
        starts = np.flatnonzero(np.concatenate([[True], np.diff(domain) != 0, [True]])) if len(domain) else np.zeros(1)
        count(
            read.indptr.astype(np.int64),
            read.indices.astype(np.int32),
            levels,
            token,
            concept,
            is_first,
            starts.astype(np.int64),
            self._hits,
            self._domains_hit,
        )

    def scores(self, concept: int) -> "PairScores":
        """Computes precision, recall and F1 of every latent for a concept, at every threshold."""
        hits, domains_hit = (_above(counts[concept]) for counts in (self._hits, self._domains_hit))
        fires = _above(self._fires)
        precision = hits / np.maximum(fires, 1)
        recall = hits / max(1, self._tokens[concept])
        recall_per_domain = domains_hit / max(1, self._domains[concept])
        return PairScores(
            precision, recall, recall_per_domain, _f1(precision, recall), _f1(precision, recall_per_domain)
        )

    @property
    def tokens(self) -> NDArray[np.int64]:
        """[concepts]: tokens of each concept so far."""
        return self._tokens

    @property
    def domains(self) -> NDArray[np.int64]:
        """[concepts]: domains of each concept so far."""
        return self._domains


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of every latent as a detector of one concept; each array is [latents, thresholds]."""

    precision: NDArray[np.float64]
    """Share of the tokens at which the latent fires that have the concept."""
    recall: NDArray[np.float64]
    """Share of the concept's tokens at which the latent fires."""
    recall_per_domain: NDArray[np.float64]
    """Share of the concept's domains in which the latent fires at least once."""
    f1: NDArray[np.float64]
    """Harmonic mean of precision and recall."""
    f1_per_domain: NDArray[np.float64]
    """Harmonic mean of precision and recall per domain: the figure to go by."""

    def best(self) -> tuple[int, int]:
        """Finds the latent and the threshold with the highest F1 per domain; the token F1 decides between equals."""
        equals = np.argwhere(self.f1_per_domain == self.f1_per_domain.max())
        latent, threshold = equals[self.f1[tuple(equals.T)].argmax()]
        return int(latent), int(threshold)

    def best_threshold(self, latent: int) -> int:
        """Finds a latent's best threshold in the same way."""
        return PairScores(*(scores[[latent]] for scores in vars(self).values())).best()[1]


@dataclass(frozen=True, eq=False)
class ConceptScores:
    """The best latent for each concept: chosen on validation tokens, measured on test tokens. Arrays are [concepts]."""

    concepts: tuple[str, ...]
    latent: NDArray[np.int64]
    """The latent with the highest F1 per domain on the validation tokens; -1 if none ever fired for the concept."""
    threshold: NDArray[np.float64]
    """Fraction of the latent's maximum above which it counts as firing."""
    validation_f1_per_domain: NDArray[np.float64]
    """That F1. It is too good, because the latent was chosen by it."""
    precision: NDArray[np.float64]
    """Precision on the test tokens; all that follow are measured on them too."""
    recall: NDArray[np.float64]
    recall_per_domain: NDArray[np.float64]
    f1: NDArray[np.float64]
    f1_per_domain: NDArray[np.float64]
    tokens: NDArray[np.int64]
    """Test tokens of the concept."""
    domains: NDArray[np.int64]
    """Test domains of the concept."""
    pairs: NDArray[np.int64]
    """[pairs, 2]: concept and latent of every pair whose F1 per domain is above `GOOD` on both sets of tokens."""

    def coverage(self, f1: float = GOOD) -> int:
        """Counts the concepts whose chosen latent has an F1 per domain above `f1` on the test tokens."""
        return int((self.f1_per_domain > f1).sum())

    def table(self) -> "pl.DataFrame":
        """Gives one row per concept, the one that is detected best first."""
        import polars as pl

        columns = {name: value for name, value in vars(self).items() if name != "pairs"}
        return (
            pl.DataFrame(columns | {"concepts": list(self.concepts)})
            .rename({"concepts": "concept"})
            .sort("f1_per_domain", descending=True, maintain_order=True)
        )

    def __repr__(self) -> str:
        """Shows how many concepts are detected."""
        return f"ConceptScores({self.coverage():,} of {len(self.concepts):,} concepts with F1 per domain > {GOOD})"


def concept_scores(
    validation_codes: Codes,
    validation_labels: Labels,
    test_codes: Codes,
    test_labels: Labels,
    thresholds: Sequence[float] = THRESHOLDS,
    threshold_from: Literal["validation", "test"] = "validation",
) -> ConceptScores:
    """Scores latents as detectors of annotated concepts by InterPLM's F1.

    A latent fires for a token if its activation, divided by its maximum over the validation tokens, exceeds a
    threshold. Precision counts tokens, and recall counts domains: a domain is found if the latent fires anywhere in
    it. For each concept, the validation tokens choose the latent and the threshold, and the test tokens measure them.
    Split between examples, best between groups of similar ones. `ConceptMeter` counts batch by batch.

    Args:
        validation_codes: Codes [tokens, latents], dense or sparse.
        validation_labels: Labels of these tokens.
        test_codes: Codes of other tokens.
        test_labels: Their labels. Concepts that only one of the two sets of labels names are left out.
        thresholds: Fractions of a latent's maximum, increasing.
        threshold_from: `test` lets each latent have its best threshold on the test tokens, as InterPLM does. This
            makes the scores a little too good.

    Raises:
        UserError: If sizes do not fit, or if a value is NaN or infinite.

    Example:
        >>> labels = evaluation.Labels(6, ["helix"], token=[0, 1, 4], concept=[0, 0, 0], domain=[0, 0, 1])
        >>> codes = np.array([[0.0, 1], [3, 1], [0, 0], [0, 1], [2, 0], [0, 1]])
        >>> found = evaluation.concept_scores(codes, labels, codes, labels)
        >>> found
        ConceptScores(1 of 1 concepts with F1 per domain > 0.5)
        >>> found.latent.tolist(), found.recall.round(2).tolist(), found.recall_per_domain.tolist()
        ([0], [0.67], [1.0])
    """
    first = read_codes(validation_codes, "codes")
    known = [name for name in validation_labels.concepts if name in set(test_labels.concepts)]
    maxima = first.max(axis=0).toarray().ravel()
    validation, test = (ConceptMeter(known, maxima, thresholds) for _ in range(2))
    validation.add(first, validation_labels.select(known))
    test.add(test_codes, test_labels.select(known))
    return compare(validation, test, threshold_from)


def compare(
    validation: ConceptMeter, test: ConceptMeter, threshold_from: Literal["validation", "test"] = "validation"
) -> ConceptScores:
    """Chooses latents and thresholds by one meter's counts, and measures them by another's."""
    rows: list[tuple[Any, ...]] = []
    pairs = []
    for concept in range(len(validation.concepts)):
        chosen, measured = validation.scores(concept), test.scores(concept)
        latent, threshold = chosen.best()
        best = chosen.f1_per_domain[latent, threshold]
        if threshold_from == "test":
            threshold = measured.best_threshold(latent)
        figures = (getattr(measured, name)[latent, threshold] for name in vars(measured))
        rows.append((latent if best > 0 else -1, test.thresholds[threshold], best, *figures))
        pairs += [(concept, one) for one in _good_pairs(chosen, measured, threshold_from)]
    columns: list[Any] = [np.array(column) for column in zip(*rows, strict=True)] if rows else [np.zeros(0)] * 8
    return ConceptScores(
        validation.concepts,
        *columns,
        tokens=test.tokens,
        domains=test.domains,
        pairs=np.array(pairs, np.int64).reshape(-1, 2),
    )


def _good_pairs(chosen: PairScores, measured: PairScores, threshold_from: str) -> list[int]:
    best = chosen.f1_per_domain.argmax(axis=1)
    latents = np.arange(len(best))
    on_test = measured.f1_per_domain.max(axis=1)
    if threshold_from == "validation":
        on_test = measured.f1_per_domain[latents, best]
    return latents[(chosen.f1_per_domain[latents, best] > GOOD) & (on_test > GOOD)].tolist()


def _above(counts: NDArray[np.integer]) -> NDArray[np.integer]:
    """Turns counts by the highest threshold exceeded into counts of all that exceed each threshold."""
    return np.flip(np.cumsum(np.flip(counts, -1), -1), -1)


def _f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 * precision * recall / np.maximum(precision + recall, 1e-300)
