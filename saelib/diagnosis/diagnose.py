"""Diagnoses a layer from its rows: statistics, intervals, prediction, count, decision."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from saelib.activations.even import EvenRows
from saelib.activations.rows import Rows
from saelib.config.preprocessings import PartialWhitening, PreprocessingConfig, PreprocessingName
from saelib.diagnosis.decision import decide
from saelib.diagnosis.device import explained
from saelib.diagnosis.intervals import Spread, measure_spread
from saelib.diagnosis.massive import MassiveTokens, massive_tokens
from saelib.diagnosis.result import DeadFractions, Diagnosis
from saelib.environments import available_cpus
from saelib.errors import UserError
from saelib.init_death.landscape import predict_landscape
from saelib.init_death.measure import measure
from saelib.init_death.probed import Architecture, ProbedDeath
from saelib.init_death.probes import probe_death
from saelib.init_death.result import Death, InitDeath
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.stats.compute import compute_stats
from saelib.stats.layer_stats import LayerStats

if TYPE_CHECKING:
    from saelib.sae.file import SavedSAE

CANDIDATES: tuple[PreprocessingName, ...] = ("raw", "center_mean", "center_median")
COUNTED = (*CANDIDATES, "pca")
"""Preprocessings whose dead latents are counted; those after a partial whitening are predicted alone."""
MOST_LATENTS, MOST_DICTIONARIES = 10**9, 1000
"""Sizes beyond these are typos, and would end in a crash."""
ALPHA = 0.5
"""Exponent of the partial whitening that is shown with the others."""

Watch = Callable[[str, Rows], Rows]
"""(stage, rows) -> the same rows, whose reading shows as progress. The stages are the keys of `operations`."""


@dataclass(frozen=True)
class Question:
    """A question about the rows: the SAE that is planned, and how much work may go into the answer."""

    d_sae: int = 8192
    k: int = 64
    tokens: int = 100_000
    """The most rows to read."""
    architecture: Architecture = "topk"
    dictionaries: int = 1
    """Random dictionaries to count with. One tells the fraction of `d_sae` latents to about a point."""

    def __post_init__(self) -> None:
        """Raises `UserError` for impossible sizes and unknown architectures."""
        if not 1 <= self.k <= self.d_sae:
            raise UserError(f"k = {self.k}, d_sae = {self.d_sae}: k must lie between 1 and d_sae")
        if self.d_sae > MOST_LATENTS or self.dictionaries > MOST_DICTIONARIES:
            raise UserError(
                f"d_sae = {self.d_sae}, dictionaries = {self.dictionaries}: allowed are at most {MOST_LATENTS:,} "
                f"latents and {MOST_DICTIONARIES:,} dictionaries"
            )
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
    device: str = "cpu",
) -> Diagnosis:
    """Answers the question for one layer. Rows are read block by block, and never held whole.

    The preprocessings are fitted to the very rows that death is counted on, as they would be for a training.

    Args:
        source: Activations [tokens, d_in].
        question: The SAE that is planned.
        sae: An SAE that exists already; its faults are looked for.
        threads: CPUs to use; all if None. They change no bit of the result.
        watch: Shows progress.
        device: A GPU as torch names it, to collect the statistics and count on; the CPU does the rest. See
            `compute_stats` and `measure` for how the results agree.

    Raises:
        UserError: For rows that are not finite, or all the same, for an SAE of another width, and if the memory of the
            GPU does not suffice.
    """
    threads = threads or available_cpus()
    rows = EvenRows(source, question.tokens, getattr(source, "context", 1))
    with explained(source.name, rows.shape[1], device):
        layer = _look_at(source, rows, threads, watch, device)
        death = _measure(rows, question, layer.stats, threads, watch, device)
    decision = decide(
        layer.stats,
        death.measured,
        death.predicted,
        layer.massive,
        question.d_sae,
        _floor(question, rows.shape[0]),
    )
    findings = None
    if sae is not None:
        from saelib.diagnosis.sae_check import check_sae

        findings = check_sae(sae, rows, layer.stats)
    return Diagnosis(
        name=source.name,
        tokens=rows.shape[0],
        available=source.shape[0],
        **_of_layer(layer),
        **_of_death(death, question),
        recommendation=decision.remedy,
        confidence=decision.confidence,
        reasons=decision.reasons,
        verdict=decision.verdict,
        sae=findings,
        preprocessing=death.fitted[decision.preprocessing],
    )


@dataclass(frozen=True)
class _Layer:
    """The layer as it is."""

    stats: LayerStats
    spread: Spread
    massive: MassiveTokens


@dataclass(frozen=True)
class _Death:
    """Death under each preprocessing: name -> what was fitted, probed, predicted and measured."""

    fitted: dict[str, Preprocessing]
    probed: dict[str, ProbedDeath]
    counted: InitDeath | None
    """None for BatchTopK, whose bar depends on the batch: it is only predicted."""
    predicted: dict[str, DeadFractions]
    measured: dict[str, DeadFractions]


def _look_at(source: Rows, rows: EvenRows, threads: int, watch: Watch, device: str) -> _Layer:
    """Measures the statistics of the rows, and finds who carries the mean."""
    stats = compute_stats(watch("statistics", rows), workers=threads, device=device)
    spread = measure_spread(watch("intervals", rows), stats, threads)
    return _Layer(stats, spread, massive_tokens(spread.norms, _positions(source, rows.numbers)))


def _measure(rows: Rows, question: Question, stats: LayerStats, threads: int, watch: Watch, device: str) -> _Death:
    """Fits the preprocessings, and predicts and counts death under each."""
    fitted = _fit(stats, rows.name)
    probed = probe_death(watch("prediction", rows), fitted, threads=threads)
    predicted = {name: _predicted(of, question, question.architecture) for name, of in probed.items()}
    if question.architecture == "batch_topk":
        return _Death(fitted, probed, None, predicted, {})
    counted = measure(
        watch("count", rows),
        {name: of for name, of in fitted.items() if name in COUNTED},
        question.d_sae, question.k, range(question.dictionaries), threads, device,
    )  # fmt: skip
    measured = {name: _measured(of, question) for name, of in counted.preprocessings.items()}
    return _Death(fitted, probed, counted, predicted, measured)


def _of_layer(layer: _Layer) -> dict[str, Any]:
    """Returns the fields of `Diagnosis` that tell what the layer is like."""
    stats = layer.stats
    return {
        "d_in": stats.d_in,
        "gamma": stats.gamma,
        "gamma_raw": stats.gamma_raw,
        "gamma_unit": stats.gamma_unit,
        "effective_rank": stats.effective_rank,
        "excess_kurtosis": stats.excess_kurtosis,
        "intervals": layer.spread.intervals,
        "outlier_dimensions": stats.outlier_dimensions,
        "massive_tokens": layer.massive,
        "warnings": stats.warnings,
    }


def _of_death(death: _Death, question: Question) -> dict[str, Any]:
    """Returns the fields of `Diagnosis` that tell who dies."""
    others = [other for other in get_args(Architecture) if other != question.architecture]
    return {
        "d_sae": question.d_sae,
        "k": question.k,
        "architecture": question.architecture,
        "predicted": death.predicted,
        "measured": death.measured,
        "other_architectures": {
            other: {name: _predicted(of, question, other).dead_total for name, of in death.probed.items()}
            for other in others
        },
        "curve_tokens": death.counted.curve_tokens if death.counted else (),
        "curves": {
            name: of.curve_total if question.architecture == "topk" else of.curve_relu
            for name, of in (death.counted.preprocessings if death.counted else {}).items()
        },
        "landscape": predict_landscape(death.probed, question.d_sae, question.k),
        "death": death.counted,
    }


def operations(d_in: int, question: Question) -> dict[str, float]:
    """Estimates the floating point operations of each stage for one row, in proportions that hold on CPUs."""
    return {
        "statistics": 20 * 40 * d_in + 6.0 * d_in**2,
        "intervals": 400 * d_in + 4.0 * d_in**2,
        "prediction": 3 * 2.0 * 2048 * d_in,
        "count": 3 * 2.0 * question.d_sae * d_in * question.dictionaries,
    }


def _positions(source: Rows, numbers: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Finds each row's place in its example, if the source knows it."""
    known, context = getattr(source, "positions", None), getattr(source, "context", 1)
    if known is not None:
        return known[numbers]
    return numbers % context if context > 1 else None


def _fit(stats: LayerStats, name: str) -> dict[str, Preprocessing]:
    """Fits the candidates, and those that whiten if there are more rows than dimensions."""
    kinds: dict[str, PreprocessingConfig | PreprocessingName] = {kind: kind for kind in CANDIDATES}
    if stats.tokens > stats.d_in:
        kinds |= {"partial_pca": PartialWhitening(kind="partial_pca", alpha=ALPHA), "pca": "pca"}
    return {
        kind: make_preprocessing(config, stats.arrays, tokens=stats.tokens, name=name) for kind, config in kinds.items()
    }


def _predicted(of: ProbedDeath, question: Question, architecture: Architecture) -> DeadFractions:
    found = of.dead_for(architecture, question.d_sae, question.k)
    error = math.hypot(found.se_total, found.sd_total)
    return DeadFractions(found.dead_relu, found.dead_topk_only, found.dead_total, error)


def _measured(of: Death, question: Question) -> DeadFractions:
    """Averages over dictionaries. With one, the standard error is that of `d_sae` independent latents.

    ReLU selects what is positive, and so does JumpReLU before training, whose thresholds start near 0.
    """
    topk = question.architecture == "topk"
    rate = of.dead_total if topk else of.dead_relu
    total, seeds = rate.mean, len(rate.per_seed)
    error = rate.sd / math.sqrt(seeds) if seeds > 1 else math.sqrt(total * (1 - total) / question.d_sae)
    return DeadFractions(of.dead_relu.mean, of.dead_topk_only.mean if topk else 0.0, total, error)


def _floor(question: Question, tokens: int) -> float:
    """Computes the death that even isotropic tokens leave, because none of them happens to select the latent."""
    return (1 - question.k / question.d_sae) ** tokens
