"""How many steps a training needs until `b_dec` holds the mean of the activations, and dead latents come to life.

An SAE that starts at b_dec = 0 on activations with a large mean goes through three stages (docs/recovery.md):

1. Within 1 / learning rate steps, a few latents that fire on every token take up the mean. Their first gradients are
   large, and Adam's second moment remembers them for about 1 / (1 - beta2) steps each time it falls by a factor e.
2. Until those gradients have faded into the noise of a batch, the bias hardly moves. This takes `waiting` steps.
3. The mean moves from the latents to the bias. Next to the noise, the mean gradient is small, so this takes `travel`
   steps, many times the `least` number ||mu||_inf / learning rate.

With T = 1 / (1 - beta2), the speed of the bias is that of stage 3 divided by sqrt(1 + exp((waiting - t) / T)). Its
integral gives the step of an event in closed form:

    t = waiting + 2 T log sinh(travel / 2 T + asinh(exp(-waiting / 2 T)))

`waiting` and `travel` are powers of the settings. Their constants are fitted to trainings of small SAEs on synthetic
data: `python -m benchmarks recovery` repeats the fit and measures its errors on trainings that it has not seen.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = float | NDArray[np.float64]

EVENTS = ("bias_50", "bias_90", "bias_99", "revived")
"""Shares of the mean in the bias; and less than 5 % of the latents dead by ReLU."""
REFERENCE = {
    "gamma": 10.0,
    "signal_norm": 1.0,
    "learning_rate": 4e-3,
    "batch_size": 256.0,
    "outlier_dimensions": 1.0,
    "d_sae": 100.0,
    "k": 5.0,
    "d_in": 50.0,
}
"""Settings at which `travel` is `factor` times `least`; elsewhere, powers of the ratios to them multiply it."""


@dataclass(frozen=True)
class Law:
    """Constants of one event."""

    factor: float
    """`travel` over `least` at the reference settings."""
    powers: Mapping[str, float]
    """Exponent of each setting in `REFERENCE`, of `travel` over `least`."""


def waiting(start: float, gamma: Values, batch_size: Values, learning_rate: Values, memory: Values) -> Values:
    """Returns the steps until Adam's memory of the first gradients has faded into the noise of a batch.

    These gradients are ||mu|| in size and last for 1 / learning_rate steps; the noise of the mean over a batch is
    ||sigma|| / sqrt(batch_size). Their squares have the ratio below, up to a constant, and it falls by e in `memory`
    steps.
    """
    ratio = np.asarray(gamma) ** 2 * batch_size / (memory * np.asarray(learning_rate))
    return memory * np.maximum(np.log(ratio) + start, 0)


def travel(law: Law, least: Values, settings: Mapping[str, Values]) -> Values:
    """Returns the steps that the bias needs if Adam remembers nothing."""
    log = sum(power * np.log(np.asarray(settings[name]) / REFERENCE[name]) for name, power in law.powers.items())
    return least * law.factor * np.exp(log)


def step_of(waited: Values, travelled: Values, memory: Values) -> Values:
    """Returns the step at which a bias that waits and then travels arrives (see above)."""
    x = np.asarray(travelled) / (2 * np.asarray(memory)) + np.arcsinh(np.exp(-np.asarray(waited) / (2 * memory)))
    log_sinh = x + np.log1p(-np.exp(-2 * x)) - math.log(2)
    return np.maximum(waited + 2 * memory * log_sinh, 0)
