"""Closed forms for the share of latents that are dead at initialization, for Gaussian activations.

The pre-activation of a latent with encoder row w is a fixed shift w.mu plus a signal w.(x - mu). Over random unit w,
the standard deviations of the shift and of the signal have the ratio gamma = ||mu|| / ||sigma||. A latent is dead if
its shift lies so far below the bar that even the largest signal among the tokens, C signal standard deviations, does
not lift it over the bar. The bar is zero for ReLU, and the k-th largest pre-activation for TopK.

The gamma to use is a layer's `gamma_unit`. Latents see the tokens without LayerNorm, so they also see a mean along
(1, ..., 1), which the paper's gamma (after LayerNorm) leaves out.

Source: Simon, Adams, Zou, 'On the Relationship Between Activation Outliers and Feature Death in Sparse Autoencoders',
arXiv 2605.31518. `dead_total` extends the paper, whose own form is `dead_total_paper`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from saelib.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """Predictions of the closed forms for one layer. Rates are fractions of the latents, in [0, 1]."""

    c: float
    """`lethal_threshold`, in signal standard deviations."""
    t_k: float
    """`rank_bar`, in standard deviations over latents."""
    dead_relu: float
    """Latents that are never positive."""
    dead_total: float
    """Latents that are never selected, including those that are never positive; the extended form."""
    dead_total_paper: float
    """The same by the paper's form, in which the signal does not raise the bar."""


def predict(gamma: float, d_sae: int, k: int, tokens: int) -> Prediction:
    """Evaluates all closed forms for a layer of severity `gamma` and a TopK SAE.

    Args:
        gamma: Outlier severity of the layer, 0 or more.
        d_sae: Number of latents.
        k: Number of latents that are selected on each token.
        tokens: Number of evaluation tokens.

    Raises:
        UserError: if one of them is out of range.
    """
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
    """Returns C with tokens * Phi(-C) = 1, which is about the largest of `tokens` standard normal draws."""
    if tokens < 2:
        raise UserError(f"tokens = {tokens}: the closed forms need at least 2 evaluation tokens")
    return float(-ndtri(1 / tokens))


def rank_bar(d_sae: int, k: int) -> float:
    """Returns t_k = Phi^-1(1 - k / d_sae), about the k-th largest of `d_sae` standard normal draws.

    It is -inf for k = d_sae.
    """
    if not 1 <= k <= d_sae:
        raise UserError(f"k = {k}, d_sae = {d_sae}: k must lie between 1 and d_sae")
    return float(-ndtri(k / d_sae))


def dead_relu(gamma: ArrayLike, tokens: int) -> NDArray[np.float64]:
    """Returns the fraction of latents that are positive on none of `tokens` tokens: Phi(-C / gamma).

    `gamma` is 0 or more and has any shape, which the result has too. The result is 0 for 0, and 1/2 for infinity.
    """
    return ndtr(-lethal_threshold(tokens) * _inverse(gamma))


def dead_total(gamma: ArrayLike, d_sae: int, k: int, tokens: int) -> NDArray[np.float64]:
    """Returns the fraction of latents that TopK never selects, including those that are never positive.

    The form is Phi(t_k sqrt(1 + 1 / gamma^2) - C / gamma). On one token, the pre-activations have a spread of ||x||
    over the latents, not only of ||mu||, and the bar rises with that spread. The form agrees with simulated Gaussian
    activations within 4.5 points from gamma = 0.5 on; `dead_total_paper` is up to 21 points too low, at gamma = 1. Both
    have the same limits (at gamma = 0, as long as tokens > d_sae / k).
    """
    inverse, bar, c = _inverse(gamma), _bar(d_sae, k), lethal_threshold(tokens)
    # This is bar * hypot(1, u) - c * u with u = 1 / gamma, rearranged so that it stays defined at gamma = 0.
    return ndtr(bar / (np.hypot(1, inverse) + inverse) + (bar - c) * inverse)


def dead_total_paper(gamma: ArrayLike, d_sae: int, k: int, tokens: int) -> NDArray[np.float64]:
    """Returns the same fraction by the paper's form, Phi(t_k - C / gamma), which holds for large gamma.

    The result is 1 - k / d_sae for infinite `gamma`. If k > d_sae / 2, the k-th largest value is negative and the bar
    is ReLU's zero, so the result is never below `dead_relu`. The paper calls it "dead-by-TopK".
    """
    return ndtr(_bar(d_sae, k) - lethal_threshold(tokens) * _inverse(gamma))


def _bar(d_sae: int, k: int) -> float:
    return max(rank_bar(d_sae, k), 0.0)


def _inverse(gamma: ArrayLike) -> NDArray[np.float64]:
    """Returns 1 / gamma, which is finite even at 0."""
    values = np.asarray(gamma, dtype=np.float64)
    if not (values >= 0).all():
        raise UserError(f"gamma = {gamma}: must be 0 or more, and not NaN")
    return 1 / np.maximum(values, 1e-300)
