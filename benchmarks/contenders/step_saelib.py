"""A training step of saelib, on the backend that it chooses for this machine unless the setting names one."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor

from benchmarks.contenders.worker import Setting, Step, raise_biases, serve
from saelib.config import TrainConfig, VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.choose import make_trainers, step_all
from saelib.sae.gpu.member import SweepMember
from saelib.sae.initial_weights import initial_sae
from saelib.sae.trainer import TrainerSettings


def make(setting: Setting) -> Step:
    options: Mapping[str, Any] = {"dead_latents": {"kind": "auxk", "k": setting.k_aux}} if setting.dead else {}
    variant = VariantConfig.model_validate({"architecture": setting.architecture, **options})
    shape = {"d_sae": setting.d_sae, "k": setting.k, "batch_size": setting.batch_size, "steps": 1_000_000}
    config = TrainConfig.model_validate(shape | {"selection": setting.selection, "precision": setting.precision})
    sae = initial_sae(setting.d_in, config, variant, seed=0)
    raise_biases(sae.b_enc, setting)
    sae = sae.to(setting.device)
    settings = [
        TrainerSettings(config, variant, setting.learning_rate, 1.0, seed, setting.threads)
        for seed in range(setting.saes)
    ]
    if setting.path == "torch":
        trainers = [TorchTrainer(deepcopy(sae), own) for own in settings]
    else:
        trainers = make_trainers(sae, settings)

    def step(x: Tensor) -> None:
        if setting.dead:
            for trainer in trainers:
                trainer.tokens_since_fired[: setting.dead] = config.dead_after_examples
                if not isinstance(trainer, SweepMember):  # which reads the counters alone
                    trainer.examples = max(trainer.examples, config.dead_after_examples)
        step_all(trainers, x, setting.threads)

    return step


if __name__ == "__main__":
    serve(make)
