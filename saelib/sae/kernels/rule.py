"""The optimizer's numbers for one step."""

from typing import NamedTuple

import numpy as np

from saelib.config.training import VariantConfig
from saelib.sae.schedule import rate_at


class OptimizerStep(NamedTuple):
    """Numbers by which an optimizer turns gradients into changes of the parameters, for one step."""

    moves_features: bool
    """False: only the gradient of b_dec is wanted."""
    project: bool
    """Remove the component of W_dec's gradient along its rows."""
    sign: bool
    """SignSGD; otherwise Adam."""
    beta1: np.float32
    fresh1: np.float32
    """1 - beta1"""
    beta2: np.float32
    fresh2: np.float32
    """1 - beta2"""
    epsilon: np.float32
    rate: np.float32
    """The learning rate, for Adam divided by 1 - beta1^step."""
    correction: np.float32
    """1 / (1 - beta2^step)"""


def optimizer_step(variant: VariantConfig, steps: int, step: int, learning_rate: float) -> OptimizerStep:
    """The optimizer's numbers for step number `step`, 1 to `steps`."""
    rate = rate_at(step, steps, learning_rate, variant.schedule)
    optimizer = variant.optimizer
    moves_features = variant.frozen != "features"
    if optimizer.kind == "sign_sgd":
        zero = np.float32(0)
        return OptimizerStep(
            moves_features, variant.project_decoder, True, zero, zero, zero, zero, zero, np.float32(rate), zero
        )
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    return OptimizerStep(
        moves_features=moves_features,
        project=variant.project_decoder,
        sign=False,
        beta1=np.float32(beta1),
        fresh1=np.float32(1 - beta1),
        beta2=np.float32(beta2),
        fresh2=np.float32(1 - beta2),
        epsilon=np.float32(optimizer.epsilon),
        rate=np.float32(rate / (1 - beta1**step)),
        correction=np.float32(1 / (1 - beta2**step)),
    )
