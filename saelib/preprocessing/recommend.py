"""Which preprocessing a layer needs, decided by what was measured under each.

The paper decides by gamma and effective rank (Appendix E). Both are single numbers that a few massive tokens
can distort, while measuring the death of untrained dictionaries under each candidate costs seconds: so the measurement
decides. Where SAEs were trained, what they reconstruct of the model's own activations has a say too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saelib.preprocessing.choose import ACCEPTED, percent

ORDER = ("raw", "center_median", "pca")
"""From the least to the most that a preprocessing does to the activations."""

ACCEPTED_AFTER = {"raw": ACCEPTED, "center_median": 0.05, "pca": ACCEPTED}
"""Death that is accepted under each. Centering costs nothing, so raw activations must be nearly free of it; whitening
changes the loss, so it is asked for only where centering leaves more than 5 %, as in the paper's table S8."""

TOLERATED = 0.05
"""What a preprocessing may explain less of the typical token's variance than the best one, where SAEs were trained."""

PHRASES = {
    "raw": "raw activations",
    "center_median": "centering on the geometric median",
    "pca": "PCA whitening",
}


@dataclass(frozen=True)
class MeasuredDeath:
    """Total dead fraction at initialization: mean and standard deviation over `seeds` dictionaries."""

    mean: float
    sd: float
    seeds: int

    @property
    def noise(self) -> float:
        """Two standard errors of the mean."""
        return 2 * self.sd / math.sqrt(self.seeds)

    def accepted(self, preprocessing: str) -> bool:
        """Whether it is at most what is accepted under this preprocessing, or above it by no more than the noise."""
        return self.mean <= ACCEPTED_AFTER[preprocessing] + self.noise


@dataclass(frozen=True)
class TrainedSAE:
    """What is left of an SAE that was trained under a preprocessing: both as fractions, on held-out tokens."""

    explained: float
    """1 - the median of each token's own FVU, in the model's own activations."""
    dead: float


@dataclass(frozen=True)
class Recommendation:
    """A preprocessing and why, in one sentence or a few."""

    preprocessing: str
    reason: str


def recommend(
    measured: Mapping[str, MeasuredDeath], trained: Mapping[str, TrainedSAE] | None = None
) -> Recommendation | None:
    """The least invasive preprocessing that leaves few features dead, and explains about as much as any.

    Args:
        measured: Preprocessing name -> death at initialization. Names other than those of `ORDER` have no say.
        trained: Preprocessing name -> the best SAE that was trained under it. Those without one are decided by death.

    Returns:
        Of those in `ORDER` whose SAE explains at most `TOLERATED` less than the best one's: the first whose death at
        initialization is at most `ACCEPTED_AFTER` says, or above it by no more than two standard errors; where there
        is none, the one with the least death. `None` where nothing in `ORDER` was measured.
    """
    trained = {name: sae for name, sae in (trained or {}).items() if name in measured and name in ORDER}
    best = max((sae.explained for sae in trained.values()), default=0.0)
    costly = {name for name, sae in trained.items() if sae.explained < best - TOLERATED}
    candidates = [name for name in ORDER if name in measured and name not in costly]
    if not candidates:
        return None
    accepted = [name for name in candidates if measured[name].accepted(name)]
    chosen = accepted[0] if accepted else min(candidates, key=lambda name: measured[name].mean)
    sentences = [_accepted(chosen, candidates, measured) if accepted else _least(chosen, measured, bool(costly))]
    sentences += _reconstruction(chosen, costly, measured, trained)
    return Recommendation(chosen, " ".join(sentences))


def _accepted(name: str, candidates: Sequence[str], measured: Mapping[str, MeasuredDeath]) -> str:
    death = measured[name].mean
    limit = ACCEPTED_AFTER[name]
    noise = f" (within noise of {limit:.0%})" if death > limit else ""
    sentence = f"With {PHRASES[name]}, {percent(death)} of the features are dead at initialization{noise}"
    simpler = [
        f"{percent(measured[other].mean)} with {PHRASES[other]}" for other in candidates[: candidates.index(name)]
    ]
    return f"{sentence}, against {' and '.join(simpler)}." if simpler else f"{sentence}."


def _least(name: str, measured: Mapping[str, MeasuredDeath], weighed: bool) -> str:
    nothing = "Nothing that reconstructs about as well as the best" if weighed else "Nothing measured"
    least = f"Least with {PHRASES[name]}: {percent(measured[name].mean)} dead at initialization."
    return f"{nothing} leaves few enough dead. {least}"


def _reconstruction(
    name: str, costly: set[str], measured: Mapping[str, MeasuredDeath], trained: Mapping[str, TrainedSAE]
) -> list[str]:
    """What the SAE trained under the chosen preprocessing is like, and what the others would have cost."""
    sentences = []
    if name in trained:
        sae = trained[name]
        sentences.append(
            f"Its trained SAE explains {sae.explained:.1%} of the typical token's variance, {percent(sae.dead)} dead."
        )
    sentences += [
        f"Not {PHRASES[other]} ({percent(measured[other].mean)} dead at initialization): "
        f"its trained SAE explains {trained[other].explained:.1%}, {percent(trained[other].dead)} dead."
        for other in ORDER
        if other in costly
    ]
    return sentences
