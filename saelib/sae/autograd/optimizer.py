"""Optimizers over named parameters, with their state as plain tensors."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adam import adam

from saelib.config.training import Adam as AdamConfig
from saelib.config.training import OptimizerConfig
from saelib.sae.model import BYPASS

OF_NO_LATENT = ("b_dec", *BYPASS)
"""Parameters that have no row or column for each latent."""


class Optimizer(Protocol):
    """Moves parameters by their gradients."""

    moments: dict[str, Tensor]
    """Live, `m.<parameter>` and `v.<parameter>`, laid out in memory as the parameter is; may be empty."""

    def step(self, number: int, rate: float) -> None:
        """Step number `number`, from 1 on, at a learning rate of `rate`."""
        ...


def make_optimizer(parameters: Mapping[str, Parameter], config: OptimizerConfig) -> Optimizer:
    """The optimizer that a variant asks for, over the parameters that training may move."""
    if config.kind == "sign_sgd":
        return SignSGD(parameters)
    return SparseAdam(parameters, config) if config.sparse else DenseAdam(parameters, config)


class SignSGD:
    """p <- p - rate sign(gradient)."""

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        """`parameters`: by name, moved in place."""
        self.moments: dict[str, Tensor] = {}
        self._parameters = list(parameters.values())

    @torch.no_grad()
    def step(self, number: int, rate: float) -> None:
        """See `Optimizer`."""
        for parameter in self._parameters:
            parameter.sub_(_gradient(parameter).sign(), alpha=rate)


class DenseAdam:
    """Adam (Kingma and Ba 2015) as torch fuses it."""

    def __init__(self, parameters: Mapping[str, Parameter], config: AdamConfig) -> None:
        """`parameters`: by name, moved in place."""
        self.moments = _zero_moments(parameters)
        self._parameters, self._config = dict(parameters), config

    @torch.no_grad()
    def step(self, number: int, rate: float) -> None:
        """See `Optimizer`."""
        names, parameters = list(self._parameters), list(self._parameters.values())
        adam(
            [_by_rows(parameter) for parameter in parameters],
            [_by_rows(_gradient(parameter)) for parameter in parameters],
            [_by_rows(self.moments[f"m.{name}"]) for name in names],
            [_by_rows(self.moments[f"v.{name}"]) for name in names],
            max_exp_avg_sqs=[],
            state_steps=[torch.full((), number - 1, device=p.device, dtype=torch.float32) for p in parameters],
            fused=True,
            amsgrad=False,
            beta1=self._config.beta1,
            beta2=self._config.beta2,
            lr=rate,
            weight_decay=0.0,
            eps=self._config.epsilon,
            maximize=False,
        )


class SparseAdam:
    """Adam whose moments and parameters of a latent stand still in a step that gives it no gradient.

    A latent of a matrix has no gradient when its whole row has none. The bias correction counts all steps, as in
    torch.optim.SparseAdam. `b_dec` and a bypass belong to no latent and always move.
    """

    def __init__(self, parameters: Mapping[str, Parameter], config: AdamConfig) -> None:
        """`parameters`: by name, moved in place."""
        self.moments = _zero_moments(parameters)
        self._parameters, self._config = dict(parameters), config

    @torch.no_grad()
    def step(self, number: int, rate: float) -> None:
        """See `Optimizer`."""
        beta1, beta2 = self._config.beta1, self._config.beta2
        for name, parameter in self._parameters.items():
            gradient, m, v = _gradient(parameter), self.moments[f"m.{name}"], self.moments[f"v.{name}"]
            moves = _latents_with_gradient(name, gradient)
            m.lerp_(gradient, moves * (1 - beta1))
            v.lerp_(gradient.square(), moves * (1 - beta2))
            scale = (v / (1 - beta2**number)).sqrt_().add_(self._config.epsilon)
            parameter.addcdiv_(m * moves, scale, value=-rate / (1 - beta1**number))


def _latents_with_gradient(name: str, gradient: Tensor) -> Tensor:
    """1 or 0 for each latent, in the shape that broadcasts over the parameter."""
    if name in OF_NO_LATENT:
        return torch.ones_like(gradient)
    if gradient.ndim == 1:
        return (gradient != 0).to(gradient.dtype)
    return (gradient != 0).any(0 if name == "W_enc" else 1, keepdim=True).to(gradient.dtype)


def _zero_moments(parameters: Mapping[str, Parameter]) -> dict[str, Tensor]:
    return {f"{kind}.{name}": torch.zeros_like(value) for kind in "mv" for name, value in parameters.items()}


def _gradient(parameter: Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _by_rows(values: Tensor) -> Tensor:
    """The same memory, row by row: torch's fused Adam copies the gradient of what lies column by column."""
    return values if values.is_contiguous() else values.T
