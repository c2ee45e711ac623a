"""Sums of errors over tokens on a GPU, which is waited for once, when all figures are read."""

import math

import torch
from torch import Tensor

from saelib.evaluation.space import Scale
from saelib.evaluation.sums import CONSTANT


class DeviceError:
    """Squared error and total variance over tokens, in float64 about the training mean, on a GPU."""

    def __init__(self, scale: Scale, device: str) -> None:
        """Starts without tokens."""
        self.tokens = 0
        self._variance, self._mean = scale.variance, torch.from_numpy(scale.mean).to(device)
        self._error = self._mean.new_zeros(())
        self._squares = self._mean.new_zeros(())
        self._drift = torch.zeros_like(self._mean)
        self._reconstructed = torch.zeros_like(self._mean)

    def add(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """`x`, `x_hat`: [tokens, d]. Returns each token's squared error, float64 [tokens]."""
        errors = (x.double() - x_hat).square().sum(1)
        centered = x - self._mean
        self._error += errors.sum()
        self._squares += centered.square().sum()
        self._drift += centered.sum(0)
        self._reconstructed += x_hat.sum(0, dtype=torch.float64)
        self.tokens += len(x)
        return errors

    @property
    def mean(self) -> Tensor:
        """Mean of the tokens, [d]."""
        return self._mean + self._drift / self.tokens

    @property
    def mean_reconstruction(self) -> Tensor:
        """Mean of the reconstructions, [d]."""
        return self._reconstructed / self.tokens

    def figures(self) -> tuple[Tensor, Tensor, Tensor]:
        """mse, normalized mse, variance explained."""
        mse = self._error / self.tokens
        drift, mean_square = self._drift / self.tokens, self._squares / self.tokens
        variance = mean_square - drift @ drift
        explained = torch.where(variance > CONSTANT * mean_square, 1 - mse / variance, math.nan)
        return mse, mse / self._variance, explained


class DeviceTokenErrors:
    """Each token's squared error over its own squared distance to the center, on a GPU."""

    def __init__(self, center: Tensor) -> None:
        """`center`: float64 [d]."""
        self._center = center
        self._fractions: list[Tensor] = []
        self._away: list[Tensor] = []

    def add(self, x: Tensor, errors: Tensor) -> None:
        """`x`: [tokens, d]; `errors`: [tokens]."""
        distances = (x - self._center).square().sum(1)
        self._away.append(~(distances == 0))  # a distance that is not a number stays, to be seen
        self._fractions.append((errors / distances).float())

    def figures(self) -> tuple[Tensor, Tensor]:
        """Median and mean over the tokens that are not at the center; 0 if there are none."""
        away, fractions = torch.cat(self._away), torch.cat(self._fractions)
        count = away.sum()
        mean = torch.where(away, fractions, 0).sum(dtype=torch.float64) / count
        in_order = torch.where(away, fractions, torch.inf).sort().values
        middle = torch.stack([(count - 1).clamp(min=0) // 2, count // 2]).clamp(max=len(fractions) - 1)
        median = in_order[middle].mean().double()
        median = torch.where((fractions.isnan() & away).any(), math.nan, median)
        return torch.where(count > 0, median, 0), torch.where(count > 0, mean, 0)
