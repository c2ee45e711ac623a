"""Predicts the steps until the bias of a TopK SAE holds the mean of the activations, and dead latents come to life.

Recovery from a large mean runs against two clocks, both in steps (docs/recovery.md):

- `least` = ||mu||_inf / learning rate. Adam moves a coordinate by about the learning rate a step, so the bias needs as
  long even if nothing disturbs it.
- `memory` = 1 / (1 - beta2). A few latents take up the mean within the first steps. Their gradients are huge, and Adam
  divides the steps of the bias by what it remembers of them.

Trainings took about ten times the geometric mean of the two until half of the mean was in the bias. Powers of all
settings, one law for each event, predict them better. Their constants are fitted to trainings of small SAEs on
synthetic activations: `python -m benchmarks recovery` repeats the fit from the table of these trainings, and measures
the errors on those that the fit has not seen.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from saelib.errors import UserError

SHARES = MappingProxyType({"bias_50": 0.5, "bias_90": 0.9, "bias_99": 0.99})
"""Event -> share of the mean that `b_dec` then holds."""
REFERENCE = MappingProxyType(
    {
        "gamma": 10.0,
        "signal_norm": 1.0,
        "learning_rate": 4e-3,
        "batch_size": 256,
        "memory": 1000.0,
        "d_in": 50,
        "d_sae": 100,
        "k": 5,
    }
)
"""Settings at which an event takes `factor` steps; `signal_norm` is ||sigma|| = ||mu|| / gamma."""
TESTED = MappingProxyType(
    {
        "gamma": (5, 40),
        "signal_norm": (0.314, 3.14),
        "learning_rate": (0.001, 0.016),
        "batch_size": (64, 4096),
        "memory": (100, 3330),
        "d_in": (25, 80),
        "d_sae": (50, 160),
        "k": (2, 10),
    }
)
"""Smallest and largest value of each setting among the trainings."""


@dataclass(frozen=True)
class Law:
    """Steps of an event: factor * product of (setting / reference) ** power."""

    factor: float
    """Steps at the reference settings."""
    powers: Mapping[str, float]
    """Exponent of each setting, and of their `interplay` (see `logarithms`)."""

    def steps(self, settings: Mapping[str, float]) -> float:
        """Returns the predicted steps at these settings, which have the names of `REFERENCE`."""
        logs = logarithms(settings)
        return self.factor * math.exp(sum(power * logs[name] for name, power in self.powers.items()))


def logarithms(settings: Mapping[str, float]) -> dict[str, float]:
    """Returns the logarithm of each setting's ratio to its reference, and `interplay`.

    `interplay` is the product of those of gamma and signal_norm, held within the tested range: the steps depend a
    little less on gamma if the signal is large.
    """
    logs = {name: math.log(settings[name] / reference) for name, reference in REFERENCE.items()}
    held = {name: min(max(settings[name], TESTED[name][0]), TESTED[name][1]) for name in ("gamma", "signal_norm")}
    return logs | {"interplay": math.prod(math.log(value / REFERENCE[name]) for name, value in held.items())}


LAWS = MappingProxyType(
    {
        "bias_50": Law(
            15577,
            {
                "gamma": 0.57,
                "signal_norm": 0.41,
                "learning_rate": -0.75,
                "batch_size": 0.12,
                "memory": 0.53,
                "d_in": -0.17,
                "d_sae": -0.08,
                "k": -0.07,
                "interplay": -0.08,
            },
        ),
        "bias_90": Law(
            28821,
            {
                "gamma": 0.55,
                "signal_norm": 0.46,
                "learning_rate": -1.07,
                "batch_size": 0.21,
                "memory": 0.45,
                "d_in": -0.44,
                "d_sae": -0.09,
                "k": -0.11,
                "interplay": -0.05,
            },
        ),
        "bias_99": Law(
            36432,
            {
                "gamma": 0.58,
                "signal_norm": 0.49,
                "learning_rate": -1.18,
                "batch_size": 0.23,
                "memory": 0.42,
                "d_in": -0.43,
                "d_sae": -0.12,
                "k": -0.08,
                "interplay": -0.06,
            },
        ),
    }
)
"""Fitted by `python -m benchmarks recovery`, which prints them."""
ERRORS = MappingProxyType({"bias_50": 0.26, "bias_90": 0.27, "bias_99": 0.30})
"""Relative error that nine in ten trainings stay within, if the fit has not seen them."""
HARMLESS_RATE = 2.7e-3
"""Largest learning_rate * sqrt(memory / 1000) / signal_norm at which latents come to life with the bias. Above it,
training leaves more than 5 % of them dead by ReLU. Between 0.002 and 0.0033, either happened."""


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
    """Steps until less than 5 % of the latents are dead by ReLU; None if more are predicted to stay dead."""
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
        d_in: Dimensions of the activations.
        d_sae: Latents.
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
        "signal_norm": mean_norm / gamma,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "memory": 1 / (1 - beta2),
        "d_in": d_in,
        "d_sae": d_sae,
        "k": k,
    }
    least, steps, before = largest / learning_rate, {}, 0.0
    for event, law in LAWS.items():  # far outside the tested range, powers could cross each other or the least steps
        steps[event] = before = max(law.steps(settings), SHARES[event] * least, before)
    revived = steps["bias_99"] if relative_rate(settings) <= HARMLESS_RATE else None
    return RecoverySteps(**steps, revived=revived, least=least, outside=tuple(_outside(settings, largest / mean_norm)))


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
            "means in one coordinate; those in 4 or 16 took 0.4 to 1.8 times as long"
        )


def _check(positive: Mapping[str, float], beta2: float) -> None:
    for name, value in positive.items():
        if not (0 < value < math.inf):
            raise UserError(f"{name} = {value}: must be a finite number above 0")
    if not 0 <= beta2 < 1:
        raise UserError(f"beta2 = {beta2}: must be 0 or more and below 1")
    if positive["mean_largest"] > positive["mean_norm"] * (1 + 1e-6):
        raise UserError(
            f"mean_largest = {positive['mean_largest']:g} exceeds mean_norm = {positive['mean_norm']:g}; the largest "
            "coordinate of the mean cannot exceed its norm"
        )
    if positive["k"] > positive["d_sae"]:
        raise UserError(f"k = {positive['k']:g}, d_sae = {positive['d_sae']:g}: k must lie between 1 and d_sae")
