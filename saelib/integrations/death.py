"""Counts latents that are dead by cause, over windows of training tokens, from the codes of any SAE."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saelib.errors import UserError

log = logging.getLogger(__name__)

Report = Callable[[dict[str, float]], object]
"""Receives `tokens` (seen so far), `dead_relu`, `dead_topk_only` and `dead_total` (fractions), once per window."""


class DeathLog:
    """The fractions of latents that a window of training tokens left dead, by cause.

    `dead_relu` counts latents whose pre-activation was positive on no token of the window, `dead_topk_only` those that
    were positive somewhere but never selected, and `dead_total` both.
    """

    def __init__(self, window: int, report: Report | None = None) -> None:
        """Counts over `window` tokens at a time.

        Args:
            window: Tokens. A latent that fires on one of n tokens needs several times n to be seen alive.
            report: Called after each window, such as `wandb.log` or `print`; None: a line of the log.
        """
        if window < 1:
            raise UserError(f"window = {window}: must be at least 1 token")
        self.window = window
        self.rows: list[dict[str, float]] = []
        """One per window that is over, in the form that `report` receives."""
        self._report = report or _log_line
        self._tokens = self._in_window = 0
        self._positive = self._fired = torch.zeros(())

    @torch.no_grad()
    def update(self, hidden_pre: Tensor, codes: Tensor) -> None:
        """Takes a batch: pre-activations (or their ReLU) and codes after selection, [..., d_sae] both."""
        positive, fired = (_any(values) for values in (hidden_pre, codes))
        if self._in_window == 0:
            self._positive, self._fired = positive, fired
        else:
            self._positive, self._fired = self._positive | positive, self._fired | fired
        tokens = hidden_pre.numel() // hidden_pre.shape[-1]
        self._tokens += tokens
        self._in_window += tokens
        if self._in_window >= self.window:
            self._finish()

    def _finish(self) -> None:
        self._in_window = 0
        positive = self._positive | self._fired
        total = 1 - float(self._fired.float().mean())
        relu = 1 - float(positive.float().mean())
        row = {"tokens": self._tokens, "dead_relu": relu, "dead_topk_only": total - relu, "dead_total": total}
        self.rows.append(row)
        self._report(row)


def watch(module: nn.Module, method: str, of: Callable[[Any], tuple[Tensor, Tensor]], death: DeathLog) -> None:
    """Makes a module's method pass its pre-activations and codes to the log whenever it trains.

    Args:
        module: An SAE. Its weights and its saved files stay as they are.
        method: Name of the method that encodes.
        of: The method's result -> (pre-activations, codes).
        death: Receives them. Passes without gradients, such as those of an evaluation, are left out.
    """
    original = getattr(module, method)

    def watched(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        if torch.is_grad_enabled():
            death.update(*of(result))
        return result

    setattr(module, method, watched)


def _any(values: Tensor) -> Tensor:
    dense = values.to_dense() if values.is_sparse else values
    return (dense > 0).flatten(0, -2).any(dim=0)


def _log_line(row: dict[str, float]) -> None:
    log.info(
        "after %s tokens: %.1f %% of the latents dead (%.1f %% never positive, %.1f %% never selected)",
        f"{row['tokens']:,}", 100 * row["dead_total"], 100 * row["dead_relu"], 100 * row["dead_topk_only"],
    )  # fmt: skip
