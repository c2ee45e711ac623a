"""Finds what is wrong with an SAE: another layer, a normalization that is missing or done twice, dead latents."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from saelib.activations.even import EvenRows
from saelib.activations.rows import Rows, read_float32
from saelib.diagnosis.sae_inputs import Comparison, Input, compare_inputs
from saelib.errors import UserError
from saelib.evaluation.measure import measure
from saelib.evaluation.result import Evaluation
from saelib.evaluation.space import PreparedRows
from saelib.preprocessing.recommend import percent
from saelib.sae.file import SavedSAE
from saelib.stats.layer_stats import LayerStats

MEASURED_ROWS = 16_384
"""Rows that dead latents are counted on."""
FITS = 0.7
"""Unexplained share of a typical token below which an SAE fits its input, if its file reports no error."""
WORSE = 2.0
"""An SAE fits its input up to this many times the error that its file reports."""
BETTER = 0.5
"""Another input is named if it leaves less than this share of the error."""


@dataclass(frozen=True)
class SAEFindings:
    """Findings about a given SAE on given activations."""

    verdict: str
    findings: list[str]
    unexplained: float
    """Median over the tokens of ||x - x_hat||^2 / ||x - c||^2, c the geometric median, with the SAE as it is; a
    constant output, c, reaches 1."""
    best_input: str | None
    """The change of its input under which it explains far more; None if there is none."""
    best_unexplained: float
    """The error with the best of the other inputs that were tried."""
    dead_relu: float
    """Fraction of latents that are never positive on these rows."""
    dead_topk_only: float
    """Fraction of latents that are positive somewhere and never selected."""
    dead_total: float
    best_dead_total: float | None
    """`dead_total` with `best_input`."""
    l0: float


def check_sae(saved: SavedSAE, rows: Rows, stats: LayerStats) -> SAEFindings:
    """Measures an SAE on the rows, and tries whether another scale, center or normalization of its input suits it.

    Errors are compared on 512 rows, and dead latents are counted on 16,384; both are spread evenly over all rows.

    Args:
        saved: The SAE.
        rows: Activations [tokens, d_in].
        stats: The statistics of these rows.

    Raises:
        UserError: If the widths differ.
    """
    if saved.preprocess.d_in != stats.d_in:
        raise UserError(
            f"the SAE reads {saved.preprocess.d_in} dimensions, and {rows.name} has {stats.d_in}: another layer or "
            "another model"
        )
    some = EvenRows(rows, MEASURED_ROWS)
    compared = compare_inputs(saved, rows, stats)
    found, best = measure(saved, some), _better(saved, compared)
    with_best = measure(best.sae, PreparedRows(some, best.change)) if best else None
    return SAEFindings(
        verdict=_verdict(saved, compared, best, found),
        findings=_findings(saved, some, compared, found, with_best),
        unexplained=compared.as_is,
        best_input=best.name if best else None,
        best_unexplained=compared.unexplained,
        dead_relu=found.dead_relu,
        dead_topk_only=found.dead_topk_only,
        dead_total=found.dead_total,
        best_dead_total=with_best.dead_total if with_best else None,
        l0=found.l0,
    )


def _limit(saved: SavedSAE) -> float:
    """Gives the error up to which the SAE counts as fitting."""
    reported = _reported(saved.about)
    return FITS if reported is None else min(1.0, WORSE * reported)


def _better(saved: SavedSAE, compared: Comparison) -> Input | None:
    """Gives the other input, if the SAE fits it, and far better than the activations as they are."""
    helps = compared.unexplained < min(_limit(saved), BETTER * compared.as_is)
    return compared.best if helps else None


def _verdict(saved: SavedSAE, compared: Comparison, best: Input | None, found: Evaluation) -> str:
    unexplained = f"{compared.as_is:.3g} of a typical token is unexplained"
    if best is not None:
        fault = "is applied twice" if best.applied_twice else "is missing"
        return (
            f"a normalization {fault}: the SAE fits these activations {best.name}. The unexplained share of a typical "
            f"token then falls from {compared.as_is:.3g} to {compared.unexplained:.3g}."
        )
    if compared.as_is <= _limit(saved):
        return (
            f"it fits these activations: {unexplained}, and {percent(found.dead_total)} of its latents are dead here."
        )
    reported = _reported(saved.about)
    before = "" if reported is None else f" ({reported:.3g} when it was trained)"
    return (
        f"it was trained on other activations, such as another layer's, or never learned: {unexplained}{before}, and "
        "no scale, center or normalization of its input helps. A constant output reaches 1."
    )


def _findings(
    saved: SavedSAE, rows: Rows, compared: Comparison, found: Evaluation, with_best: Evaluation | None
) -> list[str]:
    findings = [_deaths(saved, found, rows.shape[0])]
    if with_best is not None:
        findings.append(f"With the right input {percent(with_best.dead_total)} of its latents are dead.")
    elif compared.as_is > _limit(saved) and _same_length(rows):
        findings.append(
            "All rows have the same length: they were normalized token by token, which cannot be undone. If the SAE "
            "was trained on raw activations, give it those."
        )
    model, layer = saved.about.get("model"), saved.about.get("layer")
    if model is not None and layer is not None:
        place = f"{model} layer {layer} {saved.about.get('site', 'residual')}".removesuffix(" residual")
        findings.append(f"Its file says that it was trained on {place}.")
    return findings


def _deaths(saved: SavedSAE, found: Evaluation, tokens: int) -> str:
    if found.dead_total == 0:
        return f"None of its latents is dead on {tokens:,} rows."
    return (
        f"{percent(found.dead_total)} of its {saved.sae.d_sae:,} latents are dead on {tokens:,} rows: "
        f"{percent(found.dead_relu)} are never positive, {percent(found.dead_topk_only)} are positive and never "
        "selected."
    )


def _reported(about: dict[str, Any]) -> float | None:
    """Gives the error that the SAE's file reports, if it does."""
    value = about.get("token_fvu_median")
    return value if isinstance(value, float) and value > 0 else None


def _same_length(rows: Rows) -> bool:
    lengths = np.linalg.norm(read_float32(rows, 0, min(rows.shape[0], rows.block_rows)), axis=1)
    return bool(lengths.std() < 1e-2 * lengths.mean())
