"""Closed-form predictions of how many latents are dead at initialization (stage `theory`)."""

from saelib.theory.closed_forms import (
    Prediction,
    dead_relu,
    dead_total,
    dead_total_paper,
    lethal_threshold,
    predict,
    rank_bar,
)

__all__ = [
    "Prediction",
    "dead_relu",
    "dead_total",
    "dead_total_paper",
    "lethal_threshold",
    "predict",
    "rank_bar",
]
