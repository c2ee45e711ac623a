"""The interface of every trainer, and the settings that all of them take."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.model import SAE


@dataclass(frozen=True)
class TrainerSettings:
    """Settings for training one SAE; every kind of trainer is made as `kind(sae, settings)`."""

    config: TrainConfig
    """Number of steps, batch size and the like."""
    variant: VariantConfig
    """The method."""
    learning_rate: float
    """The highest of the schedule."""
    variance: float
    """||sigma||^2 of the data. The squared error is divided by it, so that a learning rate means the same for every
    layer."""
    seed: int = 0
    """Seed of the random choices during training, which depend on it and on the step alone; the kernels make none."""
    threads: int = 1
    """Threads of the kernels; may be changed between steps (`TopKTrainer.threads`). torch's own are not set here."""


class Trainer(Protocol):
    """An SAE in training, and everything its next step depends on.

    Implementations: `saelib.sae.autograd.trainer.TorchTrainer` (every method, every device; the reference);
    `KernelTrainer`, `SmallKernelTrainer`, `BatchTopKTrainer` and `MatryoshkaTrainer` in `saelib.sae.kernels` (on a CPU,
    many times as fast); and `saelib.sae.gpu.member.SweepMember` (on a GPU, several SAEs as one program).
    """

    settings: TrainerSettings

    @property
    def steps_done(self) -> int:
        """Steps so far."""
        ...

    @property
    def examples(self) -> int:
        """Examples seen so far."""
        ...

    @property
    def tokens_since_fired(self) -> Tensor:
        """int64 [d_sae], CPU or device; examples since each latent last fired (selected with a value above 0)."""
        ...

    @property
    def tokens_since_positive(self) -> Tensor:
        """int64 [d_sae]; examples since each latent's pre-activation was last above 0."""
        ...

    @property
    def sae(self) -> SAE:
        """The parameters as they are now; not to be changed, and valid until the next step."""
        ...

    def step(self, x: Tensor) -> None:
        """One step of the optimizer on one batch, float32 [tokens, d_in], contiguous, on the trainer's device.

        Nothing in it waits for the device.
        """
        ...

    def gradient_norms(self) -> dict[str, float]:
        """L2 norms of the last step's gradients, before projection and clipping: `W` (both matrices) and `b_dec`."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything the next step depends on, on the CPU: parameters, moments (`m.W_enc`, `v.W_enc`, …), counters.

        Copies: later steps do not change what was returned.
        """
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues from `state_dict`, bit for bit."""
        ...
