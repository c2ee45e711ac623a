"""Which preprocessing a layer needs, decided by the measured death of untrained dictionaries.

The paper decides by gamma and effective rank (Appendix E). Both are single numbers that a few massive tokens
can distort, while measuring death under each candidate costs seconds: so the measurement decides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from saelib.choose_preprocessing import ACCEPTED, percent

ORDER = ("raw", "center_median", "pca")
"""From the least to the most that a preprocessing does to the activations."""

PHRASES = {
    "raw": "raw activations",
    "center_median": "centring on the geometric median",
    "pca": "PCA whitening",
}


@dataclass(frozen=True)
class MeasuredDeath:
    """Total dead fraction at initialisation: mean and standard deviation over `seeds` dictionaries."""

    mean: float
    sd: float
    seeds: int

    @property
    def noise(self) -> float:
        """Two standard errors of the mean."""
        return 2 * self.sd / math.sqrt(self.seeds)


@dataclass(frozen=True)
class Recommendation:
    """A preprocessing and one sentence that says why."""

    preprocessing: str
    reason: str


def recommend(measured: Mapping[str, MeasuredDeath]) -> Recommendation | None:
    """The simplest preprocessing under which at most 1 % of the features are dead at initialisation.

    Args:
        measured: preprocessing name -> death. Names other than those of `ORDER` have no say.

    Returns:
        The first in `ORDER` whose death is at most 1 %, or above it by no more than two standard errors;
        where there is none, the one with the least death; `None` where nothing in `ORDER` was measured.
    """
    candidates = [name for name in ORDER if name in measured]
    if not candidates:
        return None
    for name in candidates:
        if measured[name].mean <= ACCEPTED + measured[name].noise:
            return Recommendation(name, _accepted_reason(name, candidates, measured))
    best = min(candidates, key=lambda name: measured[name].mean)
    return Recommendation(
        best, f"Nothing measured reaches 1%. Least with {PHRASES[best]}: {percent(measured[best].mean)} dead."
    )


def _accepted_reason(name: str, candidates: list[str], measured: Mapping[str, MeasuredDeath]) -> str:
    death = measured[name].mean
    noise = " (within noise of 1%)" if death > ACCEPTED else ""
    sentence = f"With {PHRASES[name]}, {percent(death)} of the features are dead at initialisation{noise}"
    simpler = [
        f"{percent(measured[other].mean)} with {PHRASES[other]}" for other in candidates[: candidates.index(name)]
    ]
    return f"{sentence}, against {' and '.join(simpler)}." if simpler else f"{sentence}."
