"""Closed forms for the features that are dead at initialization, for Gaussian activations.

A feature's pre-activation is a fixed shift w.mu plus a signal w.(x - mu). Over random unit w their standard
deviations have the ratio gamma = ||mu|| / ||sigma||. A feature is dead when its shift lies further below the bar that
it must pass than the largest signal among the tokens, C signal standard deviations, can lift it.

Of a layer's three gammas, `gamma_unit` predicts: features see the tokens without LayerNorm, so they see a mean along
(1, ..., 1), which the paper's gamma (after LayerNorm) does not.

Source: Simon, Adams, Zou, 'On the Relationship Between Activation Outliers and Feature Death in Sparse Autoencoders',
arXiv 2605.31518. `dead_total` goes beyond the paper, whose own form is `dead_total_paper`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from saelib.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """What the closed forms say about one layer; rates are fractions of the features in [0, 1]."""

    c: float
    """`lethal_threshold`, in signal standard deviations."""
    t_k: float
    """`rank_bar`, in standard deviations over features."""
    dead_relu: float
    dead_total: float
    """ReLU-dead features included; the extended form."""
    dead_total_paper: float
    """The same by the paper's form, which leaves the signal's share out of the bar."""


def predict(gamma: float, d_sae: int, k: int, tokens: int) -> Prediction:
    """All closed forms for one layer of severity `gamma`, a TopK SAE and a number of evaluation tokens."""
    if not math.isfinite(gamma):
        raise UserError(f"gamma = {gamma}: must be a finite number, 0 or more")
    return Prediction(
        c=lethal_threshold(tokens),
        t_k=rank_bar(d_sae, k),
        dead_relu=float(dead_relu(gamma, tokens)),
        dead_total=float(dead_total(gamma, d_sae, k, tokens)),
        dead_total_paper=float(dead_total_paper(gamma, d_sae, k, tokens)),
    )


def lethal_threshold(tokens: int) -> float:
    """C with tokens * Phi(-C) = 1: about the largest of `tokens` standard normal draws."""
    if tokens < 2:
        raise UserError(f"tokens = {tokens}: the closed forms need at least 2 evaluation tokens")
    return float(-ndtri(1 / tokens))


def rank_bar(d_sae: int, k: int) -> float:
    """t_k = Phi^-1(1 - k / d_sae): about the k-th largest of `d_sae` standard normal draws; -inf for k = d_sae."""
    if not 1 <= k <= d_sae:
        raise UserError(f"k = {k}, d_sae = {d_sae}: k must lie between 1 and d_sae")
    return float(-ndtri(k / d_sae))


def dead_relu(gamma: ArrayLike, tokens: int) -> NDArray[np.float64]:
    """Fraction of features that are positive on none of `tokens` tokens: Phi(-C / gamma).

    `gamma` >= 0, of any shape (the result has it too); 0 gives 0 and infinity 1/2.
    """
    return ndtr(-lethal_threshold(tokens) * _inverse(gamma))


def dead_total(gamma: ArrayLike, d_sae: int, k: int, tokens: int) -> NDArray[np.float64]:
    """Fraction of features that TopK never selects, ReLU-dead ones included: Phi(t_k sqrt(1 + 1 / gamma^2) - C / gamma).

    On one token the pre-activations spread over features by ||x||, not by ||mu|| alone, and the bar rises with them.
    It agrees with simulated Gaussian activations within 4.5 points from gamma = 0.5 on, where `dead_total_paper` is up
    to 21 points low at gamma 1. The limits are the same (at gamma = 0: as long as tokens > d_sae / k).
    """
    inverse, bar, c = _inverse(gamma), _bar(d_sae, k), lethal_threshold(tokens)
    # bar * hypot(1, u) - c * u with the terms in u taken together: their difference stays defined at gamma = 0
    return ndtr(bar / (np.hypot(1, inverse) + inverse) + (bar - c) * inverse)


def dead_total_paper(gamma: ArrayLike, d_sae: int, k: int, tokens: int) -> NDArray[np.float64]:
    """The paper's form of `dead_total`: Phi(t_k - C / gamma), which holds for large gamma.

    Infinite `gamma` gives 1 - k / d_sae. Where k > d_sae / 2 the k-th largest value is negative and the bar is
    ReLU's zero, so that the result never falls below `dead_relu`. The paper calls this "dead-by-TopK".
    """
    return ndtr(_bar(d_sae, k) - lethal_threshold(tokens) * _inverse(gamma))


def _bar(d_sae: int, k: int) -> float:
    return max(rank_bar(d_sae, k), 0.0)


def _inverse(gamma: ArrayLike) -> NDArray[np.float64]:
    """1 / gamma, finite at 0."""
    values = np.asarray(gamma, dtype=np.float64)
    if not (values >= 0).all():
        raise UserError(f"gamma = {gamma}: must be 0 or more, and not NaN")
    return 1 / np.maximum(values, 1e-300)
