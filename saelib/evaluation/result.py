"""The figures of an SAE on some rows; this module does not import torch."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Evaluation:
    """Reconstruction and death over some rows. Figures are NaN or infinite if training has diverged."""

    mse: float
    """||x - x_hat||^2, summed over dimensions, averaged over tokens; x as the model has it (`Space`)."""
    normalized_mse: float
    """`mse` over the total variance of the training rows."""
    variance_explained: float
    """1 - sum ||x - x_hat||^2 / sum ||x - mean||^2, about the mean of the rows that are measured."""
    token_fvu_median: float
    """Median of each token's ||x - x_hat||^2 / ||x - c||^2, with c the geometric median of the training rows
    (`Space.center`): the fraction of a typical token that is unexplained, even if a few massive tokens hold nearly all
    variance."""
    token_fvu_mean: float
    """Mean of the same. Tokens at c itself are left out of both; both are 0 if there are no others."""
    mse_trained: float
    """`mse` on the preprocessed rows that the SAE reads, as are the next two."""
    normalized_mse_trained: float
    variance_explained_trained: float
    l0: float
    """Latents that fire for a token (selected with a value above 0), on average."""
    mean_kth_activation: float
    """The k-th largest value of a token on average, 0 if fewer fire; without k, the smallest value that fires."""
    dead_relu: float
    """Fraction of latents whose pre-activation is never above 0."""
    dead_topk_only: float
    """Fraction of latents that are above 0 somewhere and selected nowhere."""
    dead_total: float
    """Their sum: the fraction that never fires."""
    bias_capture: float | None
    """<b_dec, mu> / ||mu||^2, with mu the mean of the SAE's input (paper, section 5); None if mu is 0."""
    bias_distance: float | None
    """1 - ||b_dec - mu|| / ||mu||."""
    feature_capture: float | None
    """<E[z W_dec], mu> / ||mu||^2."""

    @property
    def finite(self) -> bool:
        """Whether every figure is a number."""
        values = (getattr(self, figure.name) for figure in fields(Evaluation))
        return all(value is None or math.isfinite(value) for value in values)
