"""Predicts the steps until the bias of a TopK SAE holds the mean of the activations, and dead latents come to life.

Adam divides the steps of the bias by the root of v, its running mean of squared gradients. The gradients of the first
steps are huge, because nothing holds the mean yet. They make v `disturbance` times as large as the later gradients
would, and fade from it with the memory tau = 1 / (1 - beta2):

    v(t) = (1 + disturbance exp(-t / tau)) v(infinity)

So the bias moves at 1 / sqrt(1 + disturbance exp(-t / tau)) of its later speed. An event that would take `undisturbed`
steps at this later speed happens at the t for which the integral of that fraction from 0 to t equals `undisturbed`;
`slowed` solves this in closed form. Both numbers are products of powers of the settings. Those of the batch, the
dimensions and the norm of the mean are derived or set to simple fractions; the rest is fitted to trainings of small
SAEs on synthetic activations. `python -m benchmarks recovery` repeats the fit from the table of these trainings, and
measures the errors on those that the fit has not seen (docs/recovery.md).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from saelib.errors import UserError
from saelib.theory.closed_forms import dead_relu

SHARES = MappingProxyType({"bias_50": 0.5, "bias_90": 0.9, "bias_99": 0.99})
"""Event -> share of the mean that `b_dec` then holds."""
REFERENCE = MappingProxyType(
    {"gamma": 10.0, "mean_norm": 10.0, "learning_rate": 4e-3, "batch_size": 256, "memory": 1000.0, "d_in": 50}
)
"""Settings that the law knows, and the values that its constants hold at. `memory` is 1 / (1 - beta2)."""
TESTED = MappingProxyType(
    {
        "gamma": (5, 40),
        "signal_norm": (0.314, 3.14),
        "learning_rate": (0.001, 0.016),
        "batch_size": (64, 4096),
        "memory": (100, 3330),
        "d_in": (25, 200),
        "d_sae": (50, 800),
        "k": (2, 10),
    }
)
"""Smallest and largest value of each setting among the trainings; `signal_norm` is ||sigma|| = ||mu|| / gamma."""


@dataclass(frozen=True)
class Law:
    """Steps of all events. Settings are numbers or arrays of one shape, under the names of `REFERENCE`."""

    undisturbed: Mapping[str, float]
    """Event -> steps at the reference settings if the first gradients left no trace."""
    gamma: float
    """Power of gamma in the undisturbed steps, at the reference learning rate."""
    learning_rate: float
    """Power of the learning rate in them, at the reference gamma."""
    both: float
    """Growth of the power of the learning rate when gamma grows by a factor e, and the other way around."""
    memory: float
    """Power of Adam's memory in them, for 90 and 99 % of the mean. Those to 50 % do not depend on it."""
    disturbance: float
    """v after the first gradients over v without them, at the reference settings."""

    def steps(self, event: str, settings: Mapping[str, Any]) -> Any:
        """Returns the predicted steps of an event."""
        return slowed(self._undisturbed(event, settings), self._disturbance(settings), settings["memory"])

    def _undisturbed(self, event: str, settings: Mapping[str, Any]) -> Any:
        ratio = {name: settings[name] / reference for name, reference in REFERENCE.items()}
        power = self.learning_rate + self.both * np.log(ratio["gamma"])
        steps = self.undisturbed[event] * ratio["gamma"] ** self.gamma * ratio["learning_rate"] ** power
        steps = steps * ratio["mean_norm"] ** (2 / 3) * ratio["batch_size"] ** (1 / 3)
        return steps if event == "bias_50" else steps * ratio["memory"] ** self.memory / ratio["d_in"] ** (2 / 3)

    def _disturbance(self, settings: Mapping[str, Any]) -> Any:
        ratio = {name: settings[name] / reference for name, reference in REFERENCE.items()}
        least = ratio["mean_norm"] / ratio["learning_rate"]
        return self.disturbance * ratio["gamma"] ** 2 * least ** (5 / 3) / ratio["memory"]


def slowed(undisturbed: Any, disturbance: Any, memory: Any) -> Any:
    """Returns the t at which the integral of 1 / sqrt(1 + disturbance exp(-s / memory)) over s from 0 to t is reached.

    Short ones take 2 memory log(1 + sqrt(disturbance) undisturbed / (2 memory)) steps, if the disturbance is large.
    Long ones end later by memory log(disturbance / 4) steps, the time until it has faded.

    Example:
        >>> round(float(slowed(500.0, 0.0001, 1000.0)))
        500
        >>> round(float(slowed(500.0, 10000.0, 1000.0)))
        6539
    """
    root = np.sqrt(disturbance)
    z = undisturbed / (2 * memory) + np.arcsinh(1 / root)
    return 2 * memory * (np.log(root) + z + np.log1p(-np.exp(-2 * z)) - math.log(2))  # the last three: log(sinh(z))


LAW = Law(
    undisturbed=MappingProxyType({"bias_50": 3777, "bias_90": 14670, "bias_99": 21500}),
    gamma=0.138,
    learning_rate=-1.555,
    both=-0.239,
    memory=0.174,
    disturbance=168400,
)
"""Fitted by `python -m benchmarks recovery`, which prints it."""
ERRORS = MappingProxyType({"bias_50": 0.17, "bias_90": 0.18, "bias_99": 0.35, "revived": 0.33})
"""Relative error that nine in ten of the trainings stayed within that ran after the law had been fixed."""
REVIVED, TOKENS = 0.05, 4096
"""Fraction of latents, and the tokens on which it was counted, that `RecoverySteps.revived` is about."""
HARMLESS_RATE = 2.7e-3
"""Largest learning_rate * sqrt(memory / 1000) / signal_norm at which latents come to life with the bias. Above it,
training leaves more than 5 % of them dead by ReLU. Between 0.002 and 0.004, either happened."""


@dataclass(frozen=True)
class RecoverySteps:
    """Predicted steps of a training from b_dec = 0, with a constant learning rate."""

    bias_50: float
    """Steps until the bias holds half of the mean."""
    bias_90: float
    """Steps until it holds 90 %."""
    bias_99: float
    """Steps until it holds 99 %."""
    revived: float | None
    """Steps until less than 5 % of the latents are dead by ReLU: 0 if less are born dead, which is so below a gamma of
    about 2, and None if more are predicted to stay dead."""
    least: float
    """||mu||_inf / learning rate, which no bias under Adam can go much below."""
    outside: tuple[str, ...]
    """One sentence for each setting that lies outside of the tested range. The errors hold only if there is none."""


def recovery_steps(
    gamma: float,
    mean_norm: float,
    learning_rate: float,
    *,
    mean_largest: float | None = None,
    batch_size: int = 4096,
    beta2: float = 0.999,
    d_in: int = 50,
    d_sae: int = 100,
    k: int = 5,
) -> RecoverySteps:
    """Predicts how many steps a TopK SAE under Adam needs to recover from the mean of its activations.

    Use it to decide whether to wait for recovery. An SAE whose b_dec starts at the geometric median needs 0 steps. The
    law was fitted to small SAEs on synthetic activations, and not tested on real ones.

    Args:
        gamma: Outlier severity ||mu|| / ||sigma|| of the raw activations, above 0.
        mean_norm: ||mu||, the norm of their mean.
        learning_rate: Constant learning rate.
        mean_largest: ||mu||_inf, the largest coordinate of the mean. Without it, one dimension holds the mean.
        batch_size: Tokens of a step.
        beta2: Decay of Adam's second moment, per step.
        d_in: Dimensions of the activations. The law takes less than 25 as 25, and more than 200 as 200.
        d_sae: Latents. The steps hardly depend on them and on k, so the law does not know the two: they are only
            compared with the tested range.
        k: Latents that are selected for a token.

    Raises:
        UserError: If a value is out of range.

    Example:
        >>> steps = saelib.recovery_steps(gamma=20, mean_norm=20, learning_rate=4e-3, batch_size=256)
        >>> steps.least
        5000.0
        >>> steps.least < steps.bias_50 < steps.bias_90 < steps.bias_99
        True
        >>> forgetful = saelib.recovery_steps(gamma=20, mean_norm=20, learning_rate=4e-3, batch_size=256, beta2=0.99)
        >>> forgetful.bias_50 < steps.bias_50 / 2
        True
    """
    largest = mean_norm if mean_largest is None else mean_largest
    positive = {"gamma": gamma, "mean_norm": mean_norm, "learning_rate": learning_rate, "mean_largest": largest}
    positive |= {"batch_size": batch_size, "d_in": d_in, "d_sae": d_sae, "k": k}
    _check(positive, beta2)
    settings = {
        "gamma": gamma,
        "mean_norm": mean_norm,
        "signal_norm": mean_norm / gamma,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "memory": 1 / (1 - beta2),
        "d_in": d_in,
        "d_sae": d_sae,
        "k": k,
    }
    few, many = TESTED["d_in"]
    known = settings | {"d_in": min(max(d_in, few), many)}
    least, steps, before = largest / learning_rate, {}, 0.0
    for event, share in SHARES.items():  # far outside the tested range, the law could undercut the least steps
        steps[event] = before = max(float(LAW.steps(event, known)), share * least, before)
    return RecoverySteps(
        **steps,
        revived=_revived(settings, steps["bias_99"]),
        least=least,
        outside=tuple(_outside(settings, largest / mean_norm)),
    )


def _revived(settings: Mapping[str, float], bias_99: float) -> float | None:
    """Predicts `RecoverySteps.revived`: latents that come to life do so with the bias."""
    if dead_relu(settings["gamma"], TOKENS) < REVIVED:
        return 0.0
    return bias_99 if relative_rate(settings) <= HARMLESS_RATE else None


def relative_rate(settings: Mapping[str, float]) -> float:
    """Returns the number that `HARMLESS_RATE` bounds."""
    return settings["learning_rate"] * math.sqrt(settings["memory"] / 1000) / settings["signal_norm"]


def _outside(settings: Mapping[str, float], concentration: float) -> Iterator[str]:
    """Yields a sentence for each setting outside of the tested range."""
    for name, (low, high) in TESTED.items():
        if not low <= settings[name] <= high:
            yield f"{name} = {settings[name]:g} is outside of the tested range, {low:g} to {high:g}"
    if concentration < 0.9:
        yield (
            f"the largest coordinate is only {concentration:.0%} of the norm of the mean, but the law was fitted to "
            "means in one coordinate; those in 4 or 16 took 0.5 to 1.9 times as long"
        )


def _check(positive: Mapping[str, float], beta2: float) -> None:
    for name, value in positive.items():
        if not 1e-12 <= value <= 1e12:
            raise UserError(f"{name} = {value}: must lie between 1e-12 and 1e12")
    if not 0 <= beta2 < 1:
        raise UserError(f"beta2 = {beta2}: must be 0 or more and below 1")
    if positive["mean_largest"] > positive["mean_norm"] * (1 + 1e-6):
        raise UserError(
            f"mean_largest = {positive['mean_largest']:g} exceeds mean_norm = {positive['mean_norm']:g}; the largest "
            "coordinate of the mean cannot exceed its norm"
        )
    if positive["k"] > positive["d_sae"]:
        raise UserError(f"k = {positive['k']:g}, d_sae = {positive['d_sae']:g}: k must lie between 1 and d_sae")
