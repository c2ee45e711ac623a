"""Publication of a sweep's results."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saelib.config.sites import at_site
from saelib.evaluation.caveats import AtEnd, about_rate, few_tokens_decide, rate_at_end
from saelib.evaluation.result import Evaluation
from saelib.files.publish import remove_drafts
from saelib.files.sealed import write_result
from saelib.files.tables import write_table
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE, save_sae
from saelib.sae.origin import Origin, with_origin
from saelib.train.history import HISTORY
from saelib.train.result import DivergedRun, MeasuredRun, run_entry
from saelib.train.sweep import Run

log = logging.getLogger(__name__)


def publish(
    output: Path,
    described: Mapping[str, Any],
    runs: Sequence[Run],
    choosing: Mapping[float, Evaluation],
    reported: Mapping[float, Evaluation],
    preprocess: Preprocessing,
    origin: Origin,
) -> None:
    """Writes `history.parquet`, `weights.safetensors` of the best run and, last, `sweep.json`.

    Args:
        output: The folder.
        described: What was trained, and how. JSON.
        runs: All runs of the sweep.
        choosing: Figures by learning rate, on the held-out rows that rates are chosen on; missing rates diverged.
            The best rate has the smallest median of the tokens' own FVU, which a few massive tokens do not decide.
        reported: The same on the other held-out rows.
        preprocess: The preprocessing of the SAE's rows.
        origin: What is known of its activations.
    """
    remove_drafts(output)
    # An earlier sweep.json must not vouch for the files that are about to be replaced.
    (output / "sweep.json").unlink(missing_ok=True)
    best = min(choosing, key=lambda rate: choosing[rate].token_fvu_median)
    history = pl.DataFrame([row for run in runs for row in run.history], schema=HISTORY)
    write_table(history, output / "history.parquet")
    trainer = next(run.trainer for run in runs if run.learning_rate == best)
    measured = {
        rate: MeasuredRun(**vars(found), learning_rate=rate, choosing_token_fvu_median=choosing[rate].token_fvu_median)
        for rate, found in reported.items()
    }
    figures = {name: value for name, value in run_entry(measured[best]).items() if name != "status"}
    about = with_origin({**described, **figures}, origin)
    save_sae(SavedSAE(trainer.sae, preprocess, about), output / "weights.safetensors")
    at_end = rate_at_end(best, [run.learning_rate for run in runs])
    _warn(described, reported[best], best, at_end)
    sweep = {
        **described,
        "best_learning_rate": best,
        "learning_rate_at_end": at_end,
        "runs": [run_entry(measured.get(run.learning_rate, DivergedRun(run.learning_rate))) for run in runs],
    }
    write_result(output / "sweep.json", described["key"], sweep)


def _warn(described: Mapping[str, Any], measured: Evaluation, best: float, at_end: AtEnd) -> None:
    """Log warnings about the best run."""
    layer = at_site(described["layer"], described["site"])
    name = f"{described['model']} layer {layer}, variant {described['variant']}"
    if text := few_tokens_decide(measured.variance_explained, measured.token_fvu_median):
        log.warning("%s: %s", name, text)
    if text := about_rate(best, at_end):
        log.warning("%s: %s", name, text)
