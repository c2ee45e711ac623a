"""Estimates the memory and time of the lab's jobs.

Memory is estimated to lie between one and three times the peak (docs/lab.md), so that a machine runs as many jobs at a
time as it has room for.
"""

import math
from functools import lru_cache

from saelib.config.lab import Cell, Experiment, InitDeathExperiment, RemedyExperiment, TrainingExperiment, Trainings
from saelib.config.synthetic import StoredDataConfig
from saelib.store import open_store, read_key

COUNTING_MB, TRAINING_MB = 600, 900
"""Memory of an idle job in MB, without and with torch: its process, and the two Snakemakes of a cluster job."""
COPIES = 12
"""Copies of an SAE's matrices: weights, two moments, gradients, their sums, the packed encoder, and two of all that a
checkpoint saves."""
BLOCK_TOKENS = 16_384
"""Tokens that `saelib.lab.init_death` draws at a time."""
CALIBRATION_TOKENS = 8_192
"""Tokens that `saelib.lab.trainees` fits preprocessings to."""
UNKNOWN_WIDTH, UNKNOWN_TOKENS = 4096, 100_000
"""Sizes that are assumed for a store that does not exist yet."""
FLOPS = 1e10
"""A lower bound on the speed of a thread, per second."""


def lab_mb(experiment: Experiment) -> int:
    """Estimates the memory of a job of the experiment in MB."""
    idle = COUNTING_MB if isinstance(experiment, InitDeathExperiment) else TRAINING_MB
    return idle + math.ceil(_largest(type(experiment), experiment.model_dump_json())[0] / 2**20)


def lab_seconds(experiment: Experiment) -> float:
    """Estimates the seconds of a job of the experiment on a slow machine, without its start."""
    _, flops, cells = _largest(type(experiment), experiment.model_dump_json())
    return 4.0 * min(experiment.cells_per_job, cells) * experiment.seeds * flops / FLOPS


@lru_cache
def _largest(kind: type[Experiment], content: str) -> tuple[float, float, int]:
    """Computes the most bytes that a job needs, the most operations of any cell, and the number of cells.

    Every job of an experiment asks for them, and there may be thousands of cells, so they are computed once.
    """
    experiment = kind.model_validate_json(content)
    cells = list(experiment.cells())
    together = min(experiment.cells_per_job, len(cells))
    sizes = max(_bytes(experiment, cell, together) for cell in cells)
    return sizes, max(cell.tokens * _token_flops(cell) for cell in cells), len(cells)


def _bytes(experiment: Experiment, cell: Cell, together: int) -> float:
    """Estimates the bytes of a job with `together` cells like this one, in addition to those of an idle job."""
    if isinstance(experiment, InitDeathExperiment):
        return _counting_bytes(experiment, cell)
    if isinstance(experiment, Trainings):
        return _training_bytes(experiment, cell, together)
    return 16 * cell.tokens * (_data_size(cell)[0] + cell.sae.d_sae)  # one batch, and its gradients


def _counting_bytes(experiment: InitDeathExperiment, cell: Cell) -> float:
    """Estimates the bytes of the dictionaries and covariances of all seeds, a block of tokens, and the calibration."""
    d_in, _ = _data_size(cell)
    dictionaries = experiment.seeds * len(experiment.preprocessings) * (4 * d_in * cell.sae.d_sae + 24 * d_in**2)
    return dictionaries + d_in * (12 * min(BLOCK_TOKENS, cell.tokens) + 24 * experiment.calibration_tokens)


def _training_bytes(experiment: Trainings, cell: Cell, together: int) -> float:
    """Estimates the bytes of the SAEs of one seed, which are there at the same time, the data, a batch and measures."""
    d_in, rows = _data_size(cell)
    d_sae, heldout = cell.sae.d_sae, experiment.heldout_tokens
    sae = COPIES * 2 * 4 * d_in * d_sae
    if isinstance(experiment, TrainingExperiment):
        sae += 8 * heldout * d_in  # held-out tokens of its own, twice
    known = 0 if isinstance(cell.data, StoredDataConfig) else cell.data.n_features
    data = 24 * d_in * (rows + known)
    batch = cell.settings["batch_size"] * (8 * d_sae + 16 * d_in)
    measures = 8 * heldout * d_sae
    if isinstance(experiment, RemedyExperiment):  # dense codes, and cosines with the true features
        measures += 8 * known * (heldout + 2 * d_sae)
    return sae * together + data + batch + measures


def _data_size(cell: Cell) -> tuple[int, int]:
    """Returns the width of the data and the rows that are in memory; guesses for a store that does not exist yet."""
    if not isinstance(cell.data, StoredDataConfig):
        return cell.data.d_in, CALIBRATION_TOKENS
    if read_key(cell.data.store) is None:
        return UNKNOWN_WIDTH, UNKNOWN_TOKENS
    metadata = open_store(cell.data.store).metadata
    return metadata.d_in, metadata.train_tokens


def _token_flops(cell: Cell) -> int:
    if isinstance(cell.data, StoredDataConfig):
        return _data_size(cell)[0] * cell.sae.d_sae
    return cell.data.d_in * (cell.sae.d_sae + cell.data.n_features)
