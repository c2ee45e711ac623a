"""What the closed forms predict."""

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
