"""A training step of saelib for many small SAEs, each at its own gamma; the batch is drawn in the step."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.contenders.worker import Setting, Step, raise_biases, serve
from saelib.config import TrainConfig, VariantConfig
from saelib.config.synthetic import SyntheticConfig
from saelib.sae.initial_weights import initial_sae
from saelib.sae.population import PopulationTrainer
from saelib.sae.trainer import TrainerSettings
from saelib.synthetic import make_data

GAMMAS = (0.2, 2.0, 5.0, 20.0)


def make(setting: Setting) -> Step:
    sizes: dict[str, Any] = {"d_sae": setting.d_sae, "k": setting.k, "batch_size": setting.batch_size}
    options: Mapping[str, Any] = {}
    if setting.dead:  # all that do not fire in the batch are dead
        sizes["dead_after_examples"] = 1
        options = {"dead_latents": {"kind": "auxk", "k": setting.k_aux}}
    config, variant = TrainConfig(**sizes, steps=1_000_000), VariantConfig.model_validate(options)
    gammas = [gamma for gamma, _ in zip(cycle(GAMMAS), range(setting.saes))]
    data = {gamma: make_data(SyntheticConfig(d_in=setting.d_in, gamma=gamma), seed=0) for gamma in GAMMAS}
    saes = [initial_sae(setting.d_in, config, variant, seed=seed) for seed in range(setting.saes)]
    for sae in saes:
        raise_biases(sae.b_enc, setting)
    settings = [
        TrainerSettings(config, variant, setting.learning_rate, data[gamma].signal_norm ** 2) for gamma in gammas
    ]
    scales, offsets = zip(*[(data[gamma].scale, data[gamma].offset) for gamma in gammas], strict=True)
    trainer = PopulationTrainer(saes, settings, scales, offsets, setting.threads)
    stream, rng = data[GAMMAS[0]], np.random.default_rng(1)

    def step(_: Tensor) -> None:
        trainer.step(stream.signal(setting.batch_size, rng))

    return step


if __name__ == "__main__":
    serve(make)
