"""The learning rate, the weight of a penalty and k over the steps."""

from saelib.config.training import KAnnealing, ScheduleConfig


def rate_at(step: int, steps: int, learning_rate: float, schedule: ScheduleConfig) -> float:
    """The rate of step number `step`, 1 to `steps`: a linear rise, then constant, then a linear fall to 0.

    The first step after `decay_from` is the first with a smaller rate; the last step's is the smallest above 0.
    """
    decay_from = schedule.decay_from * steps
    fall = min(1.0, (steps + 1 - step) / (steps + 1 - decay_from)) if decay_from < steps else 1.0
    return learning_rate * risen(step, steps, schedule.warmup) * fall


def risen(step: int, steps: int, warmup: float) -> float:
    """The share that has been reached at step number `step` of a linear rise over the fraction `warmup` of `steps`."""
    return min(1.0, step / (warmup * steps)) if warmup * steps > 0 else 1.0


def k_at(step: int, steps: int, k: int, largest: int, annealing: KAnnealing | None) -> int:
    """The k of step number `step`, 1 to `steps`: a linear fall from its start to `k`, which then stays.

    Args:
        step: Number of the step.
        steps: Number of all steps.
        k: The last k.
        largest: Start if the annealing names none; at least `k` is used.
        annealing: None leaves k constant.
    """
    if annealing is None:
        return k
    start = annealing.start or max(largest, k)
    return k + round((start - k) * max(0.0, 1 - (step - 1) / (annealing.until * steps)))
