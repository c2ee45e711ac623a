"""What every way to train an SAE offers, and the choice between them."""

from typing import Protocol

from torch import Tensor

from saelib.sae.model import SAE


class Trainer(Protocol):
    """An SAE in training, and everything its next step depends on.

    Implementations: `saelib.sae.autograd.trainer.TorchTrainer` (every method, every device; the reference), and
    `KernelTrainer` and `SmallKernelTrainer` in `saelib.sae.kernels` (TopK on a CPU, many times as fast).
    """

    learning_rate: float
    """The highest of the schedule."""
    steps_done: int
    examples: int
    """Seen so far."""
    tokens_since_fired: Tensor
    """int64 [d_sae], CPU or device; examples since each latent last fired (selected with a value above 0)."""
    tokens_since_positive: Tensor
    """int64 [d_sae]; examples since each latent's pre-activation was last above 0."""

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
        """Continue from `state_dict`, bit for bit."""
        ...
