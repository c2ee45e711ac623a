"""A training step of SAELens, through its own trainer."""

from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from benchmarks.contenders.worker import Setting, Step, raise_biases, serve


def make(setting: Setting) -> Step:
    shape = {"d_in": setting.d_in, "d_sae": setting.d_sae, "k": setting.k}
    if setting.nested_widths():
        widths = [*setting.nested_widths(), setting.d_sae]
        config = MatryoshkaBatchTopKTrainingSAEConfig(**shape, device=setting.device, matryoshka_widths=widths)
        sae = MatryoshkaBatchTopKTrainingSAE(config)
    elif setting.architecture == "batch_topk":
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shape, device=setting.device))
    else:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**shape, device=setting.device))
    raise_biases(sae.b_enc, setting)
    trainer_config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=setting.batch_size,
        lr=setting.learning_rate,
        lr_end=setting.learning_rate,
        dead_feature_window=2 if setting.dead else 1000,
        device=setting.device,
        autocast=setting.precision == "bfloat16",
    )
    trainer = SAETrainer(trainer_config, sae, iter([]))

    def step(x: Tensor) -> None:
        trainer.n_forward_passes_since_fired[: setting.dead] = 10**6
        trainer.step(x)
        trainer.n_training_steps += 1

    return step


if __name__ == "__main__":
    serve(make)
