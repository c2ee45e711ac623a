"""Experiments of kind `remedies`: SAEs with every remedy, compared at the end of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows, read_float32
from saelib.config.lab import Cell, RemedyExperiment
from saelib.lab.data import StoredSignal
from saelib.lab.result import cell_result

if TYPE_CHECKING:
    from saelib.evaluation.result import Evaluation
    from saelib.evaluation.space import Sample
    from saelib.lab.checkpoint import Checkpoint
    from saelib.lab.stage import Outbox
    from saelib.lab.trainees import Class, Trainee
    from saelib.sae.model import SAE
    from saelib.synthetic.codes import Codes

Row = dict[str, float | None]
MEASURED = ("dead_relu", "dead_topk_only", "dead_total", "l0", "bias_capture", "feature_capture")
"""Fields of `saelib.evaluation.result.Evaluation` that are kept."""
SCORES = ("f1", "mcc", "precision", "recall", "uniqueness")
"""Fields of `saelib.evaluation.features.FeatureScores` that are kept."""


def run_cells(experiment: RemedyExperiment, cells: Sequence[Cell], seed: int, outbox: "Outbox") -> None:
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
        for trainee, row in zip(group.trainees, _train(experiment, group, checkpoint), strict=True):
            outbox.keep(trainee.cell, trainee.seed, [row])
    for cell in cells:
        rows = [row for one in seeds for row in outbox.kept(cell, one) or []]
        outbox.publish(cell, cell_result([({}, {name: [row[name] for row in rows] for name in rows[0]})]))


def _train(experiment: RemedyExperiment, group: "Class", checkpoint: "Checkpoint") -> list[Row]:
    """Trains the SAEs of one stream to the end, from the checkpoint if there is one, and returns the row of each."""
    born = [_evaluate(trainee, sae, heldout(trainee).reported) for trainee, sae in group.saes()]
    done, _ = checkpoint.load_into(group) or (0, [])
    for step in range(done + 1, experiment.steps + 1):
        group.step()
        checkpoint.save_if_due(group, step, [])
    return [_measure(trainee, sae, first) for (trainee, sae), first in zip(group.saes(), born, strict=True)]


def _measure(trainee: "Trainee", sae: "SAE", born: "Evaluation") -> Row:
    """Measures a trained SAE on held-out tokens; errors are those in the model's own activations."""
    tokens = heldout(trainee)
    chosen_by, found = (_evaluate(trainee, sae, half) for half in (tokens.choosing, tokens.reported))
    row: Row = {"born_dead_relu": born.dead_relu, "born_dead": born.dead_total}
    row |= {name: getattr(found, name) for name in MEASURED}
    row |= {"fvu": 1 - found.variance_explained, "token_fvu": found.token_fvu_median}
    row["choosing_token_fvu"] = chosen_by.token_fvu_median
    return row | feature_scores(trainee, sae, tokens)


def _evaluate(trainee: "Trainee", sae: "SAE", rows: ArrayRows) -> "Evaluation":
    from saelib.evaluation.reconstruction import evaluate

    (found,) = evaluate([sae], _samples(trainee, rows), trainee.space)
    return found


def _samples(trainee: "Trainee", rows: ArrayRows) -> "list[Sample]":
    return list(trainee.space.samples(rows, rows.shape[0], rows.block_rows))


@dataclass(frozen=True, eq=False)
class Heldout:
    """Tokens that no SAE was trained on, in two halves."""

    choosing: ArrayRows
    """Tokens that learning rates are chosen on."""
    reported: ArrayRows
    """Tokens that everything else is measured on."""
    codes: "Codes | None"
    """The true features of the reported tokens, if they are known."""


def heldout(trainee: "Trainee") -> Heldout:
    """Draws held-out tokens of synthetic data; those of a real layer are in its store, and halves share no example."""
    data, count = trainee.data, trainee.experiment.heldout_tokens
    if isinstance(data.source, StoredSignal):
        return _stored_halves(data.source)
    choosing = data.sample(count, np.random.default_rng((trainee.seed, 5)))
    reported, codes = data.sample_with_codes(count, np.random.default_rng((trainee.seed, 4)))
    return Heldout(ArrayRows(choosing, "the choosing tokens"), ArrayRows(reported, "the held-out tokens"), codes)


def _stored_halves(source: StoredSignal) -> Heldout:
    from saelib.train.halves import choosing_half

    rows = read_float32(source.heldout, 0, source.heldout.shape[0])
    chosen = choosing_half(len(rows), source.heldout_examples, source.heldout.name)
    return Heldout(*(ArrayRows(rows[half], source.heldout.name) for half in (chosen, ~chosen)), codes=None)


def feature_scores(trainee: "Trainee", sae: "SAE", tokens: Heldout) -> Row:
    """Scores an SAE against the true features, by its decoder's directions in the model's own activations.

    Returns:
        None for each score if the features are not known or the SAE has diverged.
    """
    import torch

    from saelib.evaluation.features import FeatureMeter

    directions = _in_model(sae.W_dec.detach().numpy(), trainee.space.preprocess.inverse)
    if tokens.codes is None or not np.isfinite(directions).all():
        return dict.fromkeys(SCORES)
    meter = FeatureMeter(trainee.data.features, directions)
    with torch.no_grad():
        codes = [sae.activate(sae.hidden_pre(sample.x)).numpy() for sample in _samples(trainee, tokens.reported)]
    meter.add(tokens.codes.dense(len(trainee.data.features)), np.concatenate(codes))
    scores = meter.scores()
    return {name: getattr(scores, name) for name in SCORES}


def _in_model(directions: NDArray[np.float32], inverse: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Maps directions [latents, d_out] of preprocessed activations back to the model's own, [latents, d_in]."""
    if inverse is None:
        return directions
    return directions * inverse if inverse.ndim == 1 else directions @ inverse
