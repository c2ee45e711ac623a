"""A training step of dictionary_learning, through its own trainer."""

from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from benchmarks.contenders.worker import Setting, Step, autocast, raise_biases, serve


def make(setting: Setting) -> Step:
    trainer = TopKTrainer(
        steps=100_000,
        activation_dim=setting.d_in,
        dict_size=setting.d_sae,
        k=setting.k,
        layer=0,
        lm_name="",
        device=setting.device,
        auxk_alpha=1 / 32 if setting.dead else 0.0,
        lr=setting.learning_rate,
        warmup_steps=0,
    )
    raise_biases(trainer.ae.encoder.bias, setting)
    trainer.dead_feature_threshold = 2 * setting.batch_size if setting.dead else 10**12
    number = 0

    def step(x: Tensor) -> None:
        nonlocal number
        trainer.num_tokens_since_fired[: setting.dead] = 10**9
        with autocast(setting):
            trainer.update(number, x)  # the first also computes a geometric median; it is not timed
        number += 1

    return step


if __name__ == "__main__":
    serve(make)
