"""Experiments of kind `training`: death by cause, bias, reconstruction and recovered features over the steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from saelib.config.lab import Cell, TrainingExperiment
from saelib.lab.result import CellResult, Coordinate, cell_result

if TYPE_CHECKING:
    from saelib.lab.checkpoint import Checkpoint
    from saelib.lab.stage import Outbox
    from saelib.lab.trainees import Class, Trainee
    from saelib.sae.model import SAE

Row = dict[str, float | None]
MEASURED = (
    *("dead_relu", "dead_topk_only", "dead_total", "mse", "normalized_mse", "l0", "mean_kth_activation"),
    *("bias_capture", "bias_distance", "feature_capture"),
)
"""Fields of `saelib.evaluation.result.Evaluation` that are kept."""


def run_cells(experiment: TrainingExperiment, cells: Sequence[Cell], seed: int, outbox: "Outbox") -> None:
    """Trains the cells, seed after seed. Within a seed, the SAEs of one stream train side by side.

    Args:
        experiment: The experiment.
        cells: Some cells of its grid.
        seed: The suite's seed; repetition i of every cell uses `seed + i` for features, weights and batches.
        outbox: Keeps what is finished of each cell and seed, and publishes cells.
    """
    from saelib.lab.trainees import unfinished

    seeds = [seed + i for i in range(experiment.seeds)]
    for group, checkpoint in unfinished(experiment, cells, seeds, outbox):
        for trainee, rows in zip(group.trainees, _train(experiment, group, checkpoint), strict=True):
            outbox.keep(trainee.cell, trainee.seed, rows)
    for cell in cells:
        per_seed = [outbox.kept(cell, one) or [] for one in seeds]
        outbox.publish(cell, _of_latents(per_seed) if experiment.per_latent else _trajectory(per_seed))


def _train(experiment: TrainingExperiment, group: "Class", checkpoint: "Checkpoint") -> list[list[Row]]:
    """Trains the SAEs of one stream to the end, from the checkpoint if there is one, and returns the rows of each."""
    samples = [trainee.samples(experiment.heldout_tokens) for trainee in group.trainees]
    done, rows = checkpoint.load_into(group) or (-1, [[] for _ in group.trainees])
    for step in range(done + 1, experiment.steps + 1):
        if step:
            group.step()
        if step % experiment.record_every == 0 or step == experiment.steps:
            for own, sample, (trainee, sae) in zip(rows, samples, group.saes(), strict=True):
                own += _measure(experiment, trainee, sae, sample, step)
        checkpoint.save_if_due(group, step, rows)
    return rows


def _measure(experiment: TrainingExperiment, trainee: "Trainee", sae: "SAE", samples: Sequence, step: int) -> list[Row]:
    """Measures an SAE on the held-out tokens: one row, or one for each latent."""
    from saelib.evaluation.directions import mmcs
    from saelib.evaluation.reconstruction import evaluate

    if experiment.per_latent:
        return _latents(sae, samples, step)
    (found,) = evaluate([sae], samples, trainee.space)
    row: Row = {"step": step}
    row.update({name: getattr(found, name) for name in MEASURED})
    row["signal_norm"] = trainee.space.trained.variance**0.5  # in the units of the threshold
    directions = sae.W_dec.detach().numpy()
    comparable = trainee.space.preprocess.scale is None and np.isfinite(directions).all()
    row["mmcs"] = mmcs(trainee.data.features, directions) if comparable else None  # not in whitened activations
    return [row]


def _latents(sae: "SAE", samples: Sequence, step: int) -> list[Row]:
    """Returns for each latent its largest pre-activation, and whether any token selects it."""
    import torch

    with torch.no_grad():
        hidden = torch.cat([sae.hidden_pre(sample.x) for sample in samples])
        fires = (sae.activate(hidden) > 0).any(0)
        largest = hidden.amax(0)
    return [
        {"step": step, "latent": latent, "max_pre_activation": float(high), "dead_total": float(not fired)}
        for latent, (high, fired) in enumerate(zip(largest.tolist(), fires.tolist(), strict=True))
    ]


def _trajectory(per_seed: Sequence[Sequence[Row]]) -> CellResult:
    """Makes a record for each step; the last one also has the collateral ratio."""
    ratios = [collateral_ratio(rows) for rows in per_seed]
    records: list[tuple[Mapping[str, Coordinate], Mapping[str, Sequence[float | None]]]] = []
    for i, first in enumerate(per_seed[0]):
        at = [rows[i] for rows in per_seed]
        values = {name: [row[name] for row in at] for name in first if name != "step"}
        last = i == len(per_seed[0]) - 1
        values["collateral_ratio"] = ratios if last else [None] * len(per_seed)
        records.append(({"step": int(first["step"] or 0)}, values))
    return cell_result(records)


def collateral_ratio(rows: Sequence[Row]) -> float | None:
    """Divides the rise of ReLU-death by the fall of TopK-death over the window in which the threshold collapses.

    The window starts at the largest mean k-th activation and ends when nine tenths of its fall to the final value have
    happened. None if TopK-death falls by less than a point in it, or if the collapse is not over: a threshold above
    ||sigma|| (`signal_norm`) still carries the mean.
    """
    threshold = np.array([row["mean_kth_activation"] for row in rows], dtype=float)
    if not np.isfinite(threshold).all() or threshold[-1] > (rows[-1]["signal_norm"] or 0):
        return None
    start = int(threshold.argmax())
    low = threshold[-1] + 0.1 * (threshold[start] - threshold[-1])
    end = start + int(np.argmax(threshold[start:] <= low))
    relu, topk = (np.array([row[name] for row in rows], dtype=float) for name in ("dead_relu", "dead_topk_only"))
    fall = topk[start] - topk[end]
    return float((relu[end] - relu[start]) / fall) if fall >= 0.01 else None


FATES = {
    (False, False): "alive",
    (True, True): "dead to the end",
    (True, False): "comes to life",
    (False, True): "dies",
}
"""Dead at the start, dead at the end -> a word for the fate of the latent."""


def _of_latents(per_seed: Sequence[Sequence[Row]]) -> CellResult:
    """Makes a record for each latent and step."""
    dead: dict[float | None, list[float | None]] = {}
    for row in per_seed[0]:
        dead.setdefault(row["latent"], []).append(row["dead_total"])
    fates = {latent: FATES[bool(states[0]), bool(states[-1])] for latent, states in dead.items()}
    records: list[tuple[Mapping[str, Coordinate], Mapping[str, Sequence[float | None]]]] = []
    for at in zip(*per_seed, strict=True):
        step, latent = int(at[0]["step"] or 0), int(at[0]["latent"] or 0)
        described: dict[str, Coordinate] = {"step": step, "latent": latent, "fate": fates[latent]}
        names = ("max_pre_activation", "dead_total")
        records.append((described, {name: [row[name] for row in at] for name in names}))
    return cell_result(records)
