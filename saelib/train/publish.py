"""The results of a sweep, put in place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saelib.files import remove_drafts, write_result
from saelib.preprocess import Preprocess
from saelib.sae.file import SavedSAE, save_sae
from saelib.tables import write_table
from saelib.train.evaluate import Evaluation
from saelib.train.record import HISTORY, Run


def publish(
    output: Path,
    described: Mapping[str, Any],
    runs: Sequence[Run],
    measured: Mapping[float, Evaluation],
    preprocess: Preprocess,
) -> None:
    """Write `history.parquet`, `weights.safetensors` of the best run and, last, `sweep.json`.

    Args:
        output: The folder.
        described: What was trained, and how. JSON.
        runs: All of the sweep.
        measured: By learning rate; those that are missing diverged. The least normalized mse is the best.
        preprocess: What the SAE's rows went through.
    """
    remove_drafts(output)
    # An earlier sweep.json must not vouch for the files that are about to be replaced.
    (output / "sweep.json").unlink(missing_ok=True)
    best = min(measured, key=lambda rate: measured[rate].normalized_mse)
    history = pl.DataFrame([row for run in runs for row in run.history], schema=HISTORY)
    write_table(history, output / "history.parquet")
    trainer = next(run.trainer for run in runs if run.learning_rate == best)
    figures = {rate: vars(found) for rate, found in measured.items()}
    about = {**described, "learning_rate": best, **figures[best]}
    save_sae(SavedSAE(trainer.sae, preprocess, about), output / "weights.safetensors")
    sweep = {
        **described,
        "best_learning_rate": best,
        "runs": [
            {"learning_rate": run.learning_rate, "status": run.status, **figures.get(run.learning_rate, {})}
            for run in runs
        ],
    }
    write_result(output / "sweep.json", described["key"], sweep)
