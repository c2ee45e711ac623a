"""Predictions of death for preprocessed synthetic tokens, and what they are made from."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saelib.config.lab import SaeSize
from saelib.preprocessing.transform import Preprocessing
from saelib.synthetic import SyntheticData
from saelib.theory.closed_forms import dead_relu, dead_total, dead_total_paper
from saelib.theory.spectrum import dead_relu_from_spectrum, dead_total_from_spectrum

PREDICTED = (
    "predicted_dead_relu",
    "predicted_dead_total",
    "predicted_dead_total_paper",
    "corrected_dead_relu",
    "corrected_dead_total",
    "limit_dead_relu",
    "limit_dead_total",
)
"""Columns of predictions. `predicted_*` follow from gamma alone, `corrected_*` also from kurtosis and rank; `limit_*`
are for infinite gamma."""
DIRECTIONS = 128
"""Random directions that kurtosis is a mean over."""


@dataclass(frozen=True)
class Severity:
    """Statistics of tokens, as latents see them, that theory needs."""

    gamma: float
    """||mean|| / ||sigma||, exact if the preprocessing only subtracts a center."""
    gamma_unit: float
    """The same of the tokens scaled to length 1, measured on the calibration tokens."""
    kurtosis: float
    """Excess kurtosis of the unit-length tokens along random directions, a mean."""
    participation_ratio: float
    """(tr C)^2 / tr C^2 of the covariance C of the unit-length tokens."""
    mean: NDArray[np.float64]
    """[d], of the tokens as they are."""
    covariance: NDArray[np.float64]
    """[d, d], of the tokens as they are."""

    def columns(self) -> dict[str, float]:
        """Returns the columns of a table that describe the tokens."""
        return {"gamma_seen": self.gamma, "kurtosis": self.kurtosis}


def severity(preprocess: Preprocessing, data: SyntheticData, calibration: NDArray[np.float32]) -> Severity:
    """Measures the calibration tokens [tokens, d_in] after the preprocessing."""
    x = preprocess.apply(calibration).astype(np.float64)
    mean, covariance = x.mean(axis=0), np.cov(x, rowvar=False, bias=True)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    center, spread = unit.mean(axis=0), np.cov(unit, rowvar=False, bias=True)
    return Severity(
        gamma=_exact_gamma(preprocess, data) or _gamma(mean, covariance),
        gamma_unit=_gamma(center, spread),
        kurtosis=_kurtosis(unit - center),
        participation_ratio=float(np.trace(spread) ** 2 / np.vdot(spread, spread)),
        mean=mean,
        covariance=covariance,
    )


def predictions(tokens_seen: Severity, sae: SaeSize, tokens: int) -> dict[str, float]:
    """Predicts death after `tokens` evaluation tokens by the closed forms and by the forms that know the spectrum."""
    gamma, sizes = tokens_seen.gamma, (sae.d_sae, sae.k, tokens)
    seen = (tokens_seen.gamma_unit, tokens_seen.participation_ratio, tokens_seen.kurtosis)
    return {
        "predicted_dead_relu": float(dead_relu(gamma, tokens)),
        "predicted_dead_total": float(dead_total(gamma, *sizes)),
        "predicted_dead_total_paper": float(dead_total_paper(gamma, *sizes)),
        "corrected_dead_relu": dead_relu_from_spectrum(*seen, tokens),
        "corrected_dead_total": dead_total_from_spectrum(*seen, len(tokens_seen.mean), *sizes),
        "limit_dead_relu": float(dead_relu(math.inf, tokens)),
        "limit_dead_total": float(dead_total(math.inf, *sizes)),
    }


def _exact_gamma(preprocess: Preprocessing, data: SyntheticData) -> float | None:
    """Returns gamma after centering by the data's own moments; None if the preprocessing does more than that."""
    if preprocess.scale is not None or preprocess.token_norm != "none":
        return None
    return float(np.linalg.norm(data.mean - preprocess.center)) / data.signal_norm


def _gamma(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(mean) / np.sqrt(np.trace(covariance)))


def _kurtosis(centered: NDArray[np.float64]) -> float:
    directions = np.random.default_rng(0).standard_normal((centered.shape[1], DIRECTIONS))
    squares = np.square(centered @ directions)
    return float((np.square(squares).mean(axis=0) / np.square(squares.mean(axis=0)) - 3).mean())
