"""The numbers of Adam that change from step to step, as a table on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saelib.config.training import Adam
from saelib.sae.schedule import rate_at
from saelib.sae.trainer import TrainerSettings


class Rates:
    """Learning rates and bias corrections of every step, and the number of the step under way, on the device.

    A step that was captured as a CUDA graph reads them there: each replay finds the next ones.
    """

    table: Tensor
    """float32 [steps + 1, saes, 2]; the rate divided by 1 - beta1^step, and 1 / sqrt(1 - beta2^step)."""
    step: Tensor
    """int32 [1]; the number of the step under way."""

    def __init__(self, settings: Sequence[TrainerSettings], optimizer: Adam, device: torch.device) -> None:
        """`settings`: one of each SAE; all have the same number of steps."""
        steps = settings[0].config.steps
        rows = [[(0.0, 0.0)] * len(settings)]
        for step in range(1, steps + 1):
            first, second = 1 - optimizer.beta1**step, (1 - optimizer.beta2**step) ** -0.5
            rates = [rate_at(step, steps, own.learning_rate, own.variant.schedule) for own in settings]
            rows.append([(rate / first, second) for rate in rates])
        self.table = torch.tensor(rows, dtype=torch.float32, device=device)
        self.step = torch.zeros(1, dtype=torch.int32, device=device)

    def now(self) -> tuple[Tensor, Tensor]:
        """The two numbers of the step under way: [saes, 1] each."""
        rate, correction = self.table.index_select(0, self.step).squeeze(0).unsqueeze(2).unbind(1)
        return rate, correction

    def advance(self) -> None:
        """Go to the next step; after the last one, its numbers stay."""
        self.step.add_(1).clamp_(max=len(self.table) - 1)

    def go_to(self, step: int) -> None:
        """Let `step` be the one under way."""
        self.step.fill_(step)
