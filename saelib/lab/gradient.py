"""Experiments of kind `gradient`: gradients of untrained SAEs, of the matrices against that of the bias."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from saelib.config.lab import Cell, GradientExperiment
from saelib.config.training import TrainConfig, VariantConfig
from saelib.lab.data import cell_data
from saelib.lab.result import cell_result

if TYPE_CHECKING:
    from saelib.lab.stage import Outbox


def run_cells(experiment: GradientExperiment, cells: Sequence[Cell], seed: int, outbox: "Outbox") -> None:
    """Computes the cells one after another; repetition i uses `seed + i` for features, tokens and weights."""
    for cell in cells:
        rows = [_measure(experiment, cell, seed + i) for i in range(experiment.seeds)]
        outbox.publish(cell, cell_result([({}, {name: [row[name] for row in rows] for name in rows[0]})]))


def _measure(experiment: GradientExperiment, cell: Cell, seed: int) -> dict[str, float]:
    """Takes the gradients of one batch: the norms of those of both matrices together, and of `b_dec`."""
    import torch

    from saelib.sae.autograd.trainer import TorchTrainer
    from saelib.sae.initial_weights import initial_sae
    from saelib.sae.trainer import TrainerSettings

    data = cell_data(cell.data, seed)
    config = TrainConfig(d_sae=cell.sae.d_sae, k=cell.sae.k, batch_size=experiment.batch_size)
    variant = VariantConfig.model_validate({"init": {"rows": cell.sae.rows}})
    sae = initial_sae(data.features.shape[1], config, variant, seed=seed)
    trainer = TorchTrainer(sae, TrainerSettings(config, variant, 1e-6, data.signal_norm**2, seed))
    trainer.step(torch.from_numpy(data.sample(experiment.batch_size, np.random.default_rng((seed, 2)))))
    norms = trainer.gradient_norms()
    return {
        "mean_norm": float(np.linalg.norm(data.mean)),
        "gamma_seen": data.gamma,
        "gradient_W": norms["W"],
        "gradient_b_dec": norms["b_dec"],
        "gradient_ratio": norms["W"] / norms["b_dec"],
    }
