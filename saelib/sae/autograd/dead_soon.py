"""The latents that a loss over dead latents has to look at, on a GPU that is never waited for."""

from typing import Any

import torch
from torch import Tensor

REFRESH = 50
"""Steps between two looks at the counters."""


class DeadSoon:
    """Lists latents that are dead or may be so in the next steps.

    A latent that has not fired for n tokens cannot be dead before `dead_after` - n more tokens have come. Every 50
    steps the latents that can be dead within 100 steps are put first in a list, and their number starts its way to the
    host, where it is read 50 steps later. This list then serves for 50 steps; only the first one is waited for. If
    batches grow so much that a list does not reach far enough, all latents are listed. Losses are the same for every
    list that holds the dead.
    """

    def __init__(self, dead_after: int, refresh: int = REFRESH) -> None:
        """Starts without a list.

        Args:
            dead_after: Examples without firing after which a latent counts as dead.
            refresh: Steps between two lists.
        """
        self._dead_after, self._refresh = dead_after, refresh
        self._steps, self._valid_until = 0, -1
        self._latents: Tensor | None = None
        self._coming: tuple[Tensor, Tensor, Any, int] | None = None

    def latents(self, tokens_since_fired: Tensor, examples: int, batch_size: int) -> Tensor:
        """Latents [some], all that are dead among them; to be called at every step.

        Args:
            tokens_since_fired: int64 [d_sae], with this step's batch counted.
            examples: Examples of all steps, this one's included.
            batch_size: Examples of this step.
        """
        if self._steps % self._refresh == 0:
            self._receive()
            self._send(tokens_since_fired, examples, 2 * self._refresh * batch_size)
            if self._latents is None:
                self._receive()
        self._steps += 1
        if self._latents is None or examples > self._valid_until:
            return torch.arange(len(tokens_since_fired), device=tokens_since_fired.device)
        return self._latents

    def _send(self, tokens_since_fired: Tensor, examples: int, ahead: int) -> None:
        """Lists the latents that can be dead within `ahead` more examples, and sends their number to the host."""
        soon = tokens_since_fired >= self._dead_after - ahead
        first = soon.logical_not().sort(stable=True).indices
        count = torch.empty((), dtype=torch.int64, pin_memory=soon.is_cuda).copy_(soon.sum(), non_blocking=True)
        sent = torch.cuda.current_stream(soon.device).record_event() if soon.is_cuda else None
        self._coming = (first, count, sent, examples + ahead)

    def _receive(self) -> None:
        """Takes over the list whose number was sent before."""
        if self._coming is None:
            return
        first, count, sent, self._valid_until = self._coming
        if sent is not None:
            sent.synchronize()  # it was over long ago, unless the host is 50 steps ahead of the GPU
        self._latents, self._coming = first[: int(count.numpy())], None
