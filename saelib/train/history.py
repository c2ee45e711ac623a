"""The history of a sweep: what is measured along the way, in rows."""

import logging
import math
from collections.abc import Sequence

import polars as pl

from saelib.errors import UserError
from saelib.evaluation.reconstruction import evaluate
from saelib.evaluation.result import Evaluation
from saelib.sae.schedule import rate_at
from saelib.sae.trainer import Trainer
from saelib.train.sweep import Run, RunningSweep

log = logging.getLogger(__name__)

PROBE_ROWS = 2_048
"""Held-out rows, the first ones, that every row of the history is measured on."""
DIVERGED = 1e3
"""An error this many times the initial one, or one that is not finite, ends a run."""

COUNTS = ("dead_relu", "dead_topk_only", "dead_total")

HISTORY = {
    "peak_learning_rate": pl.Float64,
    "learning_rate": pl.Float64,
    "step": pl.Int64,
    "examples": pl.Int64,
    "mse": pl.Float64,
    "normalized_mse": pl.Float64,
    "variance_explained": pl.Float64,
    "token_fvu_median": pl.Float64,
    "token_fvu_mean": pl.Float64,
    "mse_trained": pl.Float64,
    "normalized_mse_trained": pl.Float64,
    "variance_explained_trained": pl.Float64,
    "l0": pl.Float64,
    "mean_kth_activation": pl.Float64,
    **{f"probe_{name}": pl.Float64 for name in COUNTS},
    **dict.fromkeys(COUNTS, pl.Float64),
    "bias_capture": pl.Float64,
    "bias_distance": pl.Float64,
    "feature_capture": pl.Float64,
    "grad_norm_W": pl.Float64,
    "grad_norm_b_dec": pl.Float64,
}
"""Columns of history.parquet. `peak_learning_rate` is the schedule's highest, `learning_rate` that of the step. Errors,
captures and `probe_dead_*` are of the first held-out rows; `dead_*` is the training's own flag, null until it can be
raised."""


class Recorder:
    """An observer that adds rows to the histories of a sweep and marks the learning rates that have diverged."""

    def __init__(self, sweep: RunningSweep) -> None:
        """Reads the held-out rows that every row of the history is measured on."""
        self._probe = list(sweep.heldout_samples(PROBE_ROWS))

    def observe(self, sweep: RunningSweep) -> None:
        """Records every `record_every` steps, and the last step.

        Raises:
            UserError: at step 0, if the held-out rows are constant or not finite.
        """
        step, alive = sweep.steps_done, sweep.alive
        if step % sweep.config.record_every and step != sweep.config.steps:
            return
        found = evaluate([run.trainer.sae for run in alive], self._probe, sweep.space)
        if step == 0:
            check_measurable(found, sweep.heldout.name)
        for run, measured in zip(alive, found, strict=True):
            run.history.append(_row(sweep, run, measured))
            if step and not measured.mse <= DIVERGED * run.history[0]["mse"]:
                run.status = "diverged"
                log.warning("%s, learning rate %g: diverged, seen at step %d", sweep.subject, run.learning_rate, step)


def check_measurable(found: Sequence[Evaluation], name: str) -> None:
    """Raises `UserError` if figures of SAEs whose weights are finite are not; `name` is what the rows are called."""
    if not all(measured.finite for measured in found):
        raise UserError(f"{name}: the held-out activations are constant or not finite; nothing can be measured")


def _row(sweep: RunningSweep, run: Run, measured: Evaluation) -> dict[str, float | None]:
    config, step = sweep.config, sweep.steps_done
    norms = run.trainer.gradient_norms() if step else {}
    now = rate_at(step, config.steps, run.learning_rate, sweep.variant.schedule) if step else None
    figures = vars(measured) | {f"probe_{name}": getattr(measured, name) for name in COUNTS}
    figures |= {"learning_rate": now, "grad_norm_W": norms.get("W"), "grad_norm_b_dec": norms.get("b_dec")}
    place = {"peak_learning_rate": run.learning_rate, "step": step, "examples": run.trainer.examples}
    row = figures | dead_shares(run.trainer, config.dead_after_examples) | place
    return {name: _finite_or_none(row[name]) for name in HISTORY}


def dead_shares(trainer: Trainer, after: int) -> dict[str, float | None]:
    """Shares of latents that did not fire in the last `after` examples; None before so many were seen."""
    if trainer.examples < after:
        return dict.fromkeys(COUNTS)
    relu = (trainer.tokens_since_positive >= after).double().mean().item()
    total = (trainer.tokens_since_fired >= after).double().mean().item()
    return dict(zip(COUNTS, (relu, total - relu, total), strict=True))


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
