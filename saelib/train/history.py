"""One learning rate in training, and what is written down about it along the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from saelib.config import TrainConfig
from saelib.config.training import ScheduleConfig
from saelib.evaluation.reconstruction import evaluate
from saelib.evaluation.result import Evaluation
from saelib.evaluation.space import Sample, Space
from saelib.sae.schedule import rate_at
from saelib.sae.trainer import Trainer

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


@dataclass
class Run:
    """One learning rate of a sweep."""

    learning_rate: float
    trainer: Trainer
    status: Literal["ok", "diverged"] = "ok"
    history: list[dict[str, Any]] = field(default_factory=list)
    """A row, with the columns `HISTORY`, each `record_every` steps from step 0 on."""


class Recorder:
    """Writes the rows of all runs that still train."""

    def __init__(self, config: TrainConfig, schedule: ScheduleConfig, probe: Sequence[Sample], space: Space) -> None:
        """`probe`: the held-out rows that every row of the history is measured on."""
        self.config, self.schedule, self.probe, self.space = config, schedule, probe, space

    def record(self, runs: Sequence[Run], step: int) -> list[Evaluation]:
        """Add a row to each of `runs`, and mark those that have diverged."""
        found = evaluate([run.trainer.sae for run in runs], self.probe, self.space)
        for run, measured in zip(runs, found, strict=True):
            run.history.append(self._row(run, step, measured))
            if step and not measured.mse <= DIVERGED * run.history[0]["mse"]:
                run.status = "diverged"
        return found

    def _row(self, run: Run, step: int, measured: Evaluation) -> dict[str, Any]:
        norms = run.trainer.gradient_norms() if step else {}
        now = rate_at(step, self.config.steps, run.learning_rate, self.schedule) if step else None
        figures = vars(measured) | {f"probe_{name}": getattr(measured, name) for name in COUNTS}
        figures |= {"learning_rate": now, "grad_norm_W": norms.get("W"), "grad_norm_b_dec": norms.get("b_dec")}
        place = {"peak_learning_rate": run.learning_rate, "step": step, "examples": run.trainer.examples}
        row = figures | self._flagged(run.trainer) | place
        return {name: _finite_or_none(row[name]) for name in HISTORY}

    def _flagged(self, trainer: Trainer) -> dict[str, float | None]:
        """Shares of latents that count as dead during training."""
        after = self.config.dead_after_examples
        if trainer.examples < after:
            return dict.fromkeys(COUNTS)
        relu = (trainer.tokens_since_positive >= after).double().mean().item()
        total = (trainer.tokens_since_fired >= after).double().mean().item()
        return dict(zip(COUNTS, (relu, total - relu, total), strict=True))


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
