"""Experiments of kind `init_death`: dead latents of untrained TopK SAEs on synthetic activations, against theory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.config.lab import Cell, InitDeathExperiment
from saelib.config.preprocessings import ActiveSubspace, PartialWhitening, PreprocessingConfig
from saelib.lab.data import cell_data
from saelib.lab.encoders import draw_encoder
from saelib.lab.result import CellResult, Coordinate, cell_result
from saelib.lab.theory import PREDICTED, Severity, predictions, severity
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.stats import compute_stats

if TYPE_CHECKING:
    from saelib.lab.stage import Outbox

BLOCK = 16_384
"""Tokens that are drawn and read at a time."""


@dataclass(frozen=True)
class _Fitted:
    """A preprocessing of one seed, with the dictionary that reads its output."""

    preprocess: Preprocessing
    w_enc: NDArray[np.float32]
    """[d_out, d_sae], unit columns."""
    severity: Severity
    """Statistics of the preprocessed tokens that theory needs."""
    first_positive: NDArray[np.int32]
    """[d_sae]: the number of the first token on which each latent is positive; huge if there is none."""
    first_selected: NDArray[np.int32]


def run_cells(experiment: InitDeathExperiment, cells: Sequence[Cell], seed: int, outbox: "Outbox") -> None:
    """Computes the cells one after another.

    Args:
        experiment: The experiment.
        cells: Some cells of its grid.
        seed: The suite's seed; repetition i of every cell uses `seed + i` for features, tokens and dictionaries.
        outbox: Publishes each cell's result.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        for cell in cells:
            per_seed = [_measure(experiment, cell, seed + i) for i in range(experiment.seeds)]
            as_result = _of_latents if experiment.per_latent else _rates
            outbox.publish(cell, as_result(experiment, cell, per_seed))


def _measure(experiment: InitDeathExperiment, cell: Cell, seed: int) -> list[_Fitted]:
    """Counts on the tokens of one seed, under each preprocessing."""
    from saelib.init_death.near import nothing_near
    from saelib.init_death.trial import Trial

    data = cell_data(cell.data, seed)
    calibration = data.sample(experiment.calibration_tokens, np.random.default_rng((seed, 1)))
    fitted = _fit(experiment.preprocessings, calibration)
    encoders = [draw_encoder(cell.sae, p.d_out, seed, p.subspace) for p in fitted]
    trials = [Trial(w_enc, np.zeros((1, len(w_enc))), cell.sae.k) for w_enc in encoders]
    rng, tokens = np.random.default_rng((seed, 2)), max(experiment.tokens)
    for start in range(0, tokens, BLOCK):
        block = data.sample(min(BLOCK, tokens - start), rng)
        for preprocess, trial in zip(fitted, trials, strict=True):
            x = preprocess.apply(block)
            trial.add(x, nothing_near(1, x), start)
    return [
        _Fitted(p, w, severity(p, data, calibration), trial.first_positive[0], trial.first_selected[0])
        for p, w, trial in zip(fitted, encoders, trials, strict=True)
    ]


def _fit(wanted: Sequence[PreprocessingConfig], calibration: NDArray[np.float32]) -> list[Preprocessing]:
    arrays = compute_stats(ArrayRows(calibration, "the calibration tokens")).arrays
    return [make_preprocessing(one, arrays, tokens=len(calibration), name="lab") for one in wanted]


def _rates(experiment: InitDeathExperiment, cell: Cell, per_seed: Sequence[Sequence[_Fitted]]) -> CellResult:
    """Makes a record for each preprocessing and number of tokens."""
    records, exact = [], {name: [] for name in PREDICTED}
    for i, described in enumerate(_described(experiment.preprocessings)):
        of_seeds = [fitted[i] for fitted in per_seed]
        for tokens in experiment.tokens:
            predicted = [predictions(one.severity, cell.sae, tokens) for one in of_seeds]
            measured = [_dead(one, tokens) | one.severity.columns() for one in of_seeds]
            rows = [row | _errors(row, theory) for row, theory in zip(measured, predicted, strict=True)]
            records.append((described | {"tokens": tokens}, {name: [row[name] for row in rows] for name in rows[0]}))
            for name, values in exact.items():
                values.append(float(np.mean([row[name] for row in predicted])))
    return cell_result(records, exact)


def _dead(fitted: _Fitted, tokens: int) -> dict[str, float]:
    relu, total = (float((first >= tokens).mean()) for first in (fitted.first_positive, fitted.first_selected))
    return {"dead_relu": relu, "dead_topk_only": total - relu, "dead_total": total}


def _errors(measured: Mapping[str, float], predicted: Mapping[str, float]) -> dict[str, float]:
    """Returns predicted minus measured death, for the closed form and for the one that knows kurtosis and rank."""
    forms = {"": "predicted", "corrected_": "corrected"}
    return {
        f"{prefix}error_{rate}": predicted[f"{form}_dead_{rate}"] - measured[f"dead_{rate}"]
        for prefix, form in forms.items()
        for rate in ("relu", "total")
    }


def _of_latents(experiment: InitDeathExperiment, cell: Cell, per_seed: Sequence[Sequence[_Fitted]]) -> CellResult:
    """Makes a record for each preprocessing and latent."""
    records, tokens = [], cell.tokens
    for i, described in enumerate(_described(experiment.preprocessings)):
        of_seeds = [fitted[i] for fitted in per_seed]
        columns: dict[str, Any] = {
            "shift": [one.severity.mean @ one.w_enc for one in of_seeds],
            "spread": [
                np.sqrt(np.einsum("ij,ij->j", one.w_enc, one.severity.covariance @ one.w_enc)) for one in of_seeds
            ],
            "dead_relu": [one.first_positive >= tokens for one in of_seeds],
            "dead_total": [one.first_selected >= tokens for one in of_seeds],
        }
        for latent in range(of_seeds[0].w_enc.shape[1]):
            at = described | {"latent": latent}
            records.append((at, {name: [float(row[latent]) for row in rows] for name, rows in columns.items()}))
    return cell_result(records)


def _described(wanted: Sequence[PreprocessingConfig]) -> list[dict[str, Coordinate]]:
    """Names each preprocessing by the columns `preprocessing` and, if any has one, `alpha` and `rank`."""
    options = {
        "alpha": [one.alpha if isinstance(one, PartialWhitening) else None for one in wanted],
        "rank": [one.rank if isinstance(one, ActiveSubspace) else None for one in wanted],
    }
    used = {name: values for name, values in options.items() if any(value is not None for value in values)}
    return [
        {"preprocessing": one.kind} | {name: values[i] for name, values in used.items()} for i, one in enumerate(wanted)
    ]
