"""Experiments of kind `recovery`: steps until the bias holds the mean, and until latents have come to life."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from saelib.config.lab import Cell, RecoveryExperiment
from saelib.lab.result import cell_result

if TYPE_CHECKING:
    from saelib.evaluation.space import Sample
    from saelib.lab.checkpoint import Checkpoint
    from saelib.lab.stage import Outbox
    from saelib.lab.trainees import Class

Row = dict[str, float | None]
SHARES = {"steps_bias_50": 0.5, "steps_bias_90": 0.9, "steps_bias_99": 0.99}
"""Column -> share of the mean that `b_dec` holds from then on."""
LOOK = ("step", "bias_capture", "dead_relu")
"""Columns of a look at the SAE in training."""
REVIVED = 0.05
"""`steps_revived`: steps until less than this fraction of the latents is dead by ReLU."""
FIRST_LOOK, GROWTH = 10, 1.02
"""Step of the first look at the SAE, and the ratio of the steps of two looks."""
PATIENCE = 1.2
"""A training whose latents have not come to life ends after this many times the steps until 99 % of the mean is in the
bias. Latents that come to life do so by the time the bias is home."""


def run_cells(experiment: RecoveryExperiment, cells: Sequence[Cell], seed: int, outbox: "Outbox") -> None:
    """Trains the cells one after another; repetition i uses `seed + i` for features, weights and batches."""
    from saelib.lab.trainees import unfinished

    seeds = [seed + i for i in range(experiment.seeds)]
    for cell in cells:
        for group, checkpoint in unfinished(experiment, [cell], seeds, outbox):
            outbox.keep(cell, group.trainees[0].seed, [recover(group, checkpoint)])
        rows = [row for one in seeds for row in outbox.kept(cell, one) or []]
        outbox.publish(cell, cell_result([({}, {name: [row[name] for row in rows] for name in rows[0]})]))


def recover(group: "Class", checkpoint: "Checkpoint") -> Row:
    """Trains one SAE until everything has happened, or to a limit, and returns when each event happened.

    The limit is `experiment.steps`, or `PATIENCE` times the steps until the bias holds 99 % of the mean. The SAE is
    looked at after steps that grow by 2 %, and the step of an event is interpolated between two looks. An event that
    has not happened by `last_step` is None; one that had happened before training is at step 0. `dead_relu_last` is
    the fraction that is dead by ReLU at `last_step`. `least_steps` is ||mu||_inf / learning rate: Adam moves a
    coordinate of the bias by about the learning rate a step, so the bias alone needs as long.

    Args:
        group: A single SAE.
        checkpoint: The place where it is saved from time to time, and from which its training resumes.
    """
    (trainee,) = group.trainees
    limit, samples = trainee.experiment.steps, trainee.samples(trainee.experiment.heldout_tokens)
    done, (looks,) = checkpoint.load_into(group) or (0, [[_look(group, samples, 0)]])
    for step in range(done + 1, limit + 1):
        group.step()
        if step in (_next_look(looks), limit):
            looks.append(_look(group, samples, step))
            if _is_over(looks):
                break
        checkpoint.save_if_due(group, step, [looks])
    steps, captured, dead = (_column(looks, name) for name in LOOK)
    mean = trainee.data.mean
    row: Row = {name: crossing(steps, captured, share) for name, share in SHARES.items()}
    row["steps_revived"] = crossing(steps, [-fraction for fraction in dead], -REVIVED)
    row["last_step"], row["dead_relu_last"] = steps[-1], dead[-1]
    row["mean_norm"], row["gamma_seen"] = float(np.linalg.norm(mean)), trainee.data.gamma
    row["least_steps"] = float(np.abs(mean).max()) / trainee.cell.settings["learning_rate"]
    return row


def _look(group: "Class", samples: Sequence["Sample"], step: int) -> Row:
    """Returns the step, the share of the mean in the bias, and the fraction of latents that is dead by ReLU."""
    import torch

    ((trainee, sae),) = group.saes()
    mean, bias = trainee.data.mean, sae.b_dec.detach().numpy().astype(np.float64)
    with torch.no_grad():
        positive = torch.stack([sae.hidden_pre(sample.x).amax(0) > 0 for sample in samples]).any(0)
    found = step, float(bias @ mean / (mean @ mean)), 1 - positive.double().mean().item()
    return dict(zip(LOOK, found, strict=True))


def _next_look(looks: Sequence[Row]) -> int:
    last = int(_column(looks, "step")[-1])
    return max(last + 1, round(last * GROWTH)) if last else FIRST_LOOK


def _is_over(looks: Sequence[Row]) -> bool:
    """Checks whether all events have happened, or those that have not been waited for long enough."""
    steps, captured, dead = (_column(looks, name) for name in LOOK)
    home = crossing(steps, captured, max(SHARES.values()))
    return home is not None and (dead[-1] < REVIVED or steps[-1] >= PATIENCE * home)


def _column(looks: Sequence[Row], name: str) -> list[float]:
    return [look[name] or 0.0 for look in looks]


def crossing(steps: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Returns the first step at which `values` reach `level`, by linear interpolation; None if they never do.

    Example:
        >>> crossing([0, 10, 20], [0.0, 0.4, 0.8], 0.5)
        12.5
    """
    reached = np.flatnonzero(np.asarray(values) >= level)
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(steps[0])
    part = (level - values[i - 1]) / (values[i] - values[i - 1])
    return steps[i - 1] + part * (steps[i] - steps[i - 1])
