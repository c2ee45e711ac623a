"""Recommend a preprocessing for a layer, from measurements under each candidate.

The paper decides by gamma and effective rank (appendix E). A few massive tokens can distort both, while measuring the
death of untrained dictionaries under each candidate takes seconds: so the measurement decides. If SAEs were trained,
the recommendation also weighs how well they reconstruct the model's own activations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saelib.config.preprocessings import PreprocessingName

ACCEPTED = 0.01
"""Total death up to which a preprocessing is not worthwhile: 1 % of the latents."""

ORDER: tuple[PreprocessingName, ...] = ("raw", "center_median", "pca")
"""The candidates, from the least to the most invasive."""

ACCEPTED_AFTER = {"raw": ACCEPTED, "center_median": 0.05, "pca": ACCEPTED}
"""Death that is accepted under each. Centering costs nothing, so raw activations must be nearly free of it; whitening
changes the loss, so it is asked for only where centering leaves more than 5 %, as in the paper's table S8."""

TOLERATED = 0.05
"""A preprocessing's SAE may explain this much less of the typical token's variance than the best SAE does."""

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
        """True if the mean is accepted under this preprocessing, or exceeds the limit by no more than the noise."""
        return self.mean <= ACCEPTED_AFTER[preprocessing] + self.noise


@dataclass(frozen=True)
class TrainedSAE:
    """Two figures of an SAE that was trained under a preprocessing: fractions, on held-out tokens."""

    explained: float
    """1 - the median of each token's own FVU, in the model's own activations."""
    dead: float


@dataclass(frozen=True)
class Recommendation:
    """A preprocessing, and the reason for it in one sentence or a few."""

    preprocessing: PreprocessingName
    reason: str


def recommend(
    measured: Mapping[str, MeasuredDeath], trained: Mapping[str, TrainedSAE] | None = None
) -> Recommendation | None:
    """Recommends the least invasive preprocessing that leaves few latents dead and explains about as much as any.

    Args:
        measured: preprocessing name -> death at initialization. Names that are not in `ORDER` are ignored.
        trained: preprocessing name -> the best SAE trained under it. A name without one is judged by death alone.

    Returns:
        The first in `ORDER` whose death at initialization is at most `ACCEPTED_AFTER` allows, or exceeds it by no more
        than two standard errors. If none qualifies, the one with the least death. A preprocessing whose SAE explains
        over `TOLERATED` less than the best is left out of both. `None` if nothing in `ORDER` was measured.
    """
    trained = {name: sae for name, sae in (trained or {}).items() if name in measured and name in ORDER}
    best = max((sae.explained for sae in trained.values()), default=0.0)
    costly = {name for name, sae in trained.items() if sae.explained < best - TOLERATED}
    candidates: list[PreprocessingName] = [name for name in ORDER if name in measured and name not in costly]
    if not candidates:
        return None
    accepted: list[PreprocessingName] = [name for name in candidates if measured[name].accepted(name)]
    chosen: PreprocessingName = accepted[0] if accepted else min(candidates, key=lambda name: measured[name].mean)
    sentences = [_accepted(chosen, candidates, measured) if accepted else _least(chosen, measured, bool(costly))]
    sentences += _reconstruction(chosen, costly, measured, trained)
    return Recommendation(chosen, " ".join(sentences))


def percent(fraction: float) -> str:
    """Writes a rate with enough digits to tell a few dead latents from none, and 1.01% from the limit of 1%."""
    if fraction == 0:
        return "0%"
    if fraction < 0.00005:
        return "<0.01%"
    return f"{fraction:.2%}" if fraction < 0.1 else f"{fraction:.1%}"


def _accepted(name: str, candidates: Sequence[str], measured: Mapping[str, MeasuredDeath]) -> str:
    death = measured[name].mean
    limit = ACCEPTED_AFTER[name]
    noise = f" (within noise of {limit:.0%})" if death > limit else ""
    sentence = f"With {PHRASES[name]}, {percent(death)} of the latents are dead at initialization{noise}"
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
    """Describes the SAE trained under the chosen preprocessing, and those under the ones that were left out."""
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
