"""Measure an SAE on rows it was not trained on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from saelib.train.model import TopKSAE
from saelib.train.space import Scale, Space


@dataclass(frozen=True)
class Evaluation:
    """Reconstruction and death over some rows. NaN or infinity where training has diverged."""

    mse: float
    """||x - x_hat||^2, summed over dimensions, averaged over tokens; x as the model has it (`Space`)."""
    normalized_mse: float
    """`mse` over the total variance of the training rows."""
    variance_explained: float
    """1 - sum ||x - x_hat||^2 / sum ||x - mean||^2, about the mean of the rows that are measured."""
    mse_trained: float
    """`mse` in the space that the SAE is trained in; differs after a whitening only. So for the next two."""
    normalized_mse_trained: float
    variance_explained_trained: float
    l0: float
    """Latents that fire for a token (selected with a value above 0), on average."""
    threshold: float
    """The smallest selected value of a token, on average."""
    dead_relu: float
    """Fraction of latents whose pre-activation is never above 0."""
    dead_topk_only: float
    """Fraction of latents that are above 0 somewhere and selected nowhere."""
    dead_total: float
    """Their sum: the fraction that never fires."""


@torch.no_grad()
def evaluate(sae: TopKSAE, samples: Iterable[tuple[Tensor, Tensor]], space: Space) -> Evaluation:
    """Measure `sae` over all of `space.samples(...)`."""
    positive = torch.zeros_like(sae.b_enc, dtype=torch.bool)
    fired = torch.zeros_like(positive)
    active = threshold = torch.zeros((), dtype=torch.float64, device=positive.device)
    trained = _Error(space.trained)
    judged = _Error(space.judged) if space.whitens else trained
    for x, x_judged in samples:
        values, indices, hidden_pre = sae.encode(x)
        x_hat = sae.decode(values, indices)
        positive |= (hidden_pre > 0).any(0)
        fired |= fired_latents(values, indices, len(fired))
        active = active + (values > 0).sum()
        threshold = threshold + values.amin(1).double().sum()
        trained.add(x, x_hat)
        if space.whitens:
            judged.add(x_judged, space.restore(x_hat))
    return Evaluation(
        *judged.figures(),
        *trained.figures(),
        l0=active.item() / trained.tokens,
        threshold=threshold.item() / trained.tokens,
        dead_relu=_fraction(~positive),
        dead_topk_only=_fraction(positive & ~fired),
        dead_total=_fraction(~fired),
    )


def fired_latents(values: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    """Which latents were selected with a value above 0 (a selected 0 does not count): boolean [d_sae]."""
    counts = torch.zeros(d_sae, dtype=torch.int32, device=values.device)
    return counts.scatter_add_(0, indices.flatten(), (values > 0).flatten().int()) > 0


class _Error:
    """Squared error and total variance over tokens, summed in float64, where a large mean drowns neither."""

    def __init__(self, scale: Scale) -> None:
        self.tokens = 0
        self._scale = scale
        self._error = torch.zeros((), dtype=torch.float64, device=scale.mean.device)
        self._squares = torch.zeros_like(self._error)
        self._total = torch.zeros_like(scale.mean, dtype=torch.float64)

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        self._error += (x - x_hat).double().square().sum()
        self._squares += x.double().square().sum()
        self._total += x.double().sum(0)
        self.tokens += len(x)

    def figures(self) -> tuple[float, float, float]:
        """mse, normalized mse, variance explained."""
        mse = self._error.item() / self.tokens
        variance = (self._squares - self._total.square().sum() / self.tokens).item() / self.tokens
        return mse, mse / self._scale.variance, 1 - mse / variance if variance > 0 else math.nan


def _fraction(marked: Tensor) -> float:
    return marked.double().mean().item()
