"""From rows to a diagnosis: statistics, intervals, prediction, count, decision."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from saelib.activations.even import EvenRows
from saelib.activations.rows import Rows
from saelib.config.training import PartialWhitening, PreprocessingConfig, PreprocessingName
from saelib.diagnosis.carriers import massive_tokens, outlier_dimensions
from saelib.diagnosis.decision import decide
from saelib.diagnosis.intervals import measure_spread
from saelib.diagnosis.result import DeadFractions, Diagnosis
from saelib.errors import UserError
from saelib.init_death.landscape import predict_landscape
from saelib.init_death.measure import measure
from saelib.init_death.probed import ProbedDeath
from saelib.init_death.probes import probe_death
from saelib.init_death.result import Death
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.stats.compute import compute_stats
from saelib.stats.layer_stats import LayerStats

if TYPE_CHECKING:
    from saelib.sae.file import SavedSAE

Architecture = Literal["topk", "batchtopk", "relu", "jumprelu"]
CANDIDATES: tuple[PreprocessingName, ...] = ("raw", "center_mean", "center_median")
COUNTED = (*CANDIDATES, "pca")
"""Preprocessings whose dead latents are counted; those after a partial whitening are predicted alone."""
ALPHA = 0.5
"""Of the partial whitening that is shown beside the others."""

Watch = Callable[[str, Rows], Rows]
"""(stage, rows) -> the same rows, whose reading shows as progress. The stages are the keys of `operations`."""


@dataclass(frozen=True)
class Question:
    """What is asked about the rows."""

    d_sae: int = 8192
    k: int = 64
    tokens: int = 100_000
    """The most rows to read."""
    architecture: Architecture = "topk"
    dictionaries: int = 1
    """Random dictionaries to count with. One tells the fraction of `d_sae` latents to about a point."""

    def __post_init__(self) -> None:
        """Raises `UserError` for what cannot be asked."""
        if not 1 <= self.k <= self.d_sae:
            raise UserError(f"k = {self.k}, d_sae = {self.d_sae}: k must lie between 1 and d_sae")
        if self.tokens < 2 or self.dictionaries < 1:
            raise UserError(
                f"tokens = {self.tokens}, dictionaries = {self.dictionaries}: needs at least 2 tokens and 1 dictionary"
            )
        if self.architecture not in get_args(Architecture):
            known = ", ".join(get_args(Architecture))
            raise UserError(f"no architecture '{self.architecture}'; should be one of {known}")


def diagnose_rows(
    source: Rows,
    question: Question,
    sae: "SavedSAE | None" = None,
    threads: int | None = None,
    watch: Watch = lambda _stage, rows: rows,
) -> Diagnosis:
    """Answers the question for one layer. Rows are read block by block, and never held whole.

    The preprocessings are fitted to the very rows that death is counted on, as they would be for a training.

    Args:
        source: Activations [tokens, d_in].
        question: The SAE that is planned.
        sae: An SAE that is there already, whose faults are looked for.
        threads: CPUs to use; all where None. They change no bit of the result.
        watch: Shows progress.

    Raises:
        UserError: For rows that are not finite, or all the same, and for an SAE of another width.
    """
    threads = threads or available_cpus()
    context = getattr(source, "context", 1)
    rows = EvenRows(source, question.tokens, context)
    d_in = rows.shape[1]
    stats = compute_stats(watch("statistics", rows), workers=threads)
    spread = measure_spread(watch("intervals", rows), stats, threads)
    dimensions = outlier_dimensions(spread.unit_mean, stats.arrays["mean"], stats.arrays["std"])
    massive = massive_tokens(spread.norms, _positions(source, rows.numbers, context))

    fitted = _fit(stats, rows.name)
    probed = probe_death(watch("prediction", rows), fitted, threads=threads)
    counted = measure(
        watch("count", rows),
        {name: of for name, of in fitted.items() if name in COUNTED},
        question.d_sae, question.k, range(question.dictionaries), threads,
    )  # fmt: skip
    predicted = {name: _predicted(of, question, question.architecture) for name, of in probed.items()}
    measured = {name: _measured(of, question.d_sae) for name, of in counted.preprocessings.items()}
    others = [other for other in get_args(Architecture) if other != question.architecture]

    decision = decide(
        stats,
        measured if question.architecture == "topk" else predicted,
        predicted, dimensions, massive, question.d_sae, _floor(question, rows.shape[0]),
    )  # fmt: skip
    findings = None
    if sae is not None:
        from saelib.diagnosis.sae_check import check_sae

        findings = check_sae(sae, rows, stats)
    return Diagnosis(
        name=source.name,
        tokens=rows.shape[0],
        available=source.shape[0],
        d_in=d_in,
        d_sae=question.d_sae,
        k=question.k,
        architecture=question.architecture,
        **{name: getattr(stats, name) for name in _COPIED},
        intervals=spread.intervals,
        outlier_dimensions=dimensions,
        massive_tokens=massive,
        predicted=predicted,
        measured=measured,
        other_architectures={
            other: {name: _predicted(of, question, other).dead_total for name, of in probed.items()} for other in others
        },
        curve_tokens=counted.curve_tokens,
        curves={name: of.curve_total for name, of in counted.preprocessings.items()},
        landscape=predict_landscape(probed, question.d_sae, question.k),
        recommendation=decision.remedy,
        confidence=decision.confidence,
        reasons=decision.reasons,
        warnings=stats.warnings,
        verdict=decision.verdict,
        sae=findings,
        preprocessing=fitted[decision.preprocessing],
        death=counted,
    )


def operations(d_in: int, question: Question) -> dict[str, float]:
    """Estimates the floating point operations of each stage for one row, in proportions that hold on CPUs."""
    return {
        "statistics": 20 * 40 * d_in + 6.0 * d_in**2,
        "intervals": 400 * d_in + 4.0 * d_in**2,
        "prediction": 3 * 2.0 * 2048 * d_in,
        "count": 3 * 2.0 * question.d_sae * d_in * question.dictionaries,
    }


def _positions(source: Rows, numbers: NDArray[np.int64], context: int) -> NDArray[np.int64] | None:
    """Each row's place in its example, where the source knows it."""
    known = getattr(source, "positions", None)
    if known is not None:
        return known[numbers]
    return numbers % context if context > 1 else None


_COPIED = ("gamma", "gamma_raw", "gamma_unit", "effective_rank", "excess_kurtosis")


def available_cpus() -> int:
    """Counts the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fit(stats: LayerStats, name: str) -> dict[str, Preprocessing]:
    """Fits the candidates; those that whiten only where there are more rows than dimensions."""
    kinds: dict[str, PreprocessingConfig | PreprocessingName] = {kind: kind for kind in CANDIDATES}
    if stats.tokens > stats.d_in:
        kinds |= {"partial_pca": PartialWhitening(kind="partial_pca", alpha=ALPHA), "pca": "pca"}
    return {
        kind: make_preprocessing(config, stats.arrays, tokens=stats.tokens, name=name) for kind, config in kinds.items()
    }


def _predicted(of: ProbedDeath, question: Question, architecture: Architecture) -> DeadFractions:
    match architecture:
        case "topk":
            found = of.dead(question.d_sae, question.k)
        case "batchtopk":
            found = of.dead_batch_topk(question.d_sae, question.k)
        case "relu" | "jumprelu":
            found = of.dead_below(0.0, question.d_sae)
    return DeadFractions(
        found.dead_relu, found.dead_topk_only, found.dead_total, math.hypot(found.se_total, found.sd_total)
    )


def _measured(of: Death, d_sae: int) -> DeadFractions:
    """With one dictionary, the standard error is that of `d_sae` independent latents."""
    total, seeds = of.dead_total.mean, len(of.dead_total.per_seed)
    error = of.dead_total.sd / math.sqrt(seeds) if seeds > 1 else math.sqrt(total * (1 - total) / d_sae)
    return DeadFractions(of.dead_relu.mean, of.dead_topk_only.mean, total, error)


def _floor(question: Question, tokens: int) -> float:
    """Death that is left with isotropic tokens: nobody happens to choose the latent."""
    return (1 - question.k / question.d_sae) ** tokens
