"""The end of a sweep: every SAE is measured on held-out rows, and the best one is published."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.evaluation.reconstruction import Evaluation, evaluate
from saelib.sae.choose import backend
from saelib.train.checkpoint import checkpoints_of
from saelib.train.halves import only
from saelib.train.history import check_measurable
from saelib.train.publish import publish
from saelib.train.sweep import Destination, RunningSweep


def finish_sweep(sweep: RunningSweep, destination: Destination) -> None:
    """Measures every run on the held-out rows, writes the results, `sweep.json` last, and removes the checkpoints.

    Raises:
        UserError: if every learning rate diverged.
    """
    if not sweep.alive:
        rates = ", ".join(f"{run.learning_rate:g}" for run in sweep.runs)
        raise UserError(
            f"{sweep.subject}: training diverged at every learning rate ({rates}); add a smaller one to learning_rates"
        )
    choosing, reported = _measured(sweep, sweep.choosing), _measured(sweep, ~sweep.choosing)
    described = _description(sweep, destination.key)
    publish(destination.folder, described, sweep.runs, choosing, reported, sweep.space.preprocess, sweep.origin)
    checkpoints_of(sweep, destination).remove()


def _measured(sweep: RunningSweep, marked: NDArray[np.bool_]) -> dict[float, Evaluation]:
    """Figures by learning rate, on the marked held-out rows."""
    alive = sweep.alive
    samples = only(sweep.heldout_samples(sweep.heldout.shape[0]), marked)
    found = evaluate([run.trainer.sae for run in alive], samples, sweep.space)
    check_measurable(found, sweep.heldout.name)
    return {run.learning_rate: one for run, one in zip(alive, found, strict=True)}


def _description(sweep: RunningSweep, key: str) -> dict[str, Any]:
    """Description of what was trained, and how. JSON."""
    return {
        "key": key,
        **sweep.subject.described(),
        **sweep.settings,
        "heldout_tokens": sweep.heldout.shape[0],
        "choosing_tokens": int(sweep.choosing.sum()),
        "reported_tokens": int((~sweep.choosing).sum()),
        "d_in": sweep.space.preprocess.d_in,
        "preprocessing_reason": sweep.reason,
        "backend": backend(sweep.runs[0].trainer),
    }
