"""The figures of an SAE on some rows; this module does not import torch."""

import math
from dataclasses import dataclass


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
    """Median of each token's own ||x - x_hat||^2 / ||x - c||^2, with c the geometric median of the training rows
    (`Space.center`): what is unexplained of a typical token, however much of all variance a few massive ones hold."""
    token_fvu_mean: float
    """Mean of the same. Tokens at c itself are left out of both; if there are no others, both are 0."""
    mse_trained: float
    """`mse` in the preprocessed rows that the SAE reads; the next two figures are too."""
    normalized_mse_trained: float
    variance_explained_trained: float
    l0: float
    """Latents that fire for a token (selected with a value above 0), on average."""
    mean_kth_activation: float
    """The k-th largest value of a token on average, 0 if fewer fire; for SAEs without k, the smallest that fires."""
    dead_relu: float
    """Fraction of latents whose pre-activation is never above 0."""
    dead_topk_only: float
    """Fraction of latents that are above 0 somewhere and selected nowhere."""
    dead_total: float
    """Their sum: the fraction that never fires."""
    bias_capture: float | None
    """<b_dec, mu> / ||mu||^2 with mu the mean of what the SAE reads (paper, section 5); None if mu is 0."""
    bias_distance: float | None
    """1 - ||b_dec - mu|| / ||mu||."""
    feature_capture: float | None
    """<E[z W_dec], mu> / ||mu||^2."""

    @property
    def finite(self) -> bool:
        """True if every figure is a finite number."""
        return all(value is None or math.isfinite(value) for value in vars(self).values())
