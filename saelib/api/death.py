"""Measures and predicts death at initialization."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saelib.api.activations import Source, open_activations
from saelib.api.stats import compute_stats
from saelib.config.preprocessings import PreprocessingName
from saelib.errors import UserError
from saelib.stats.layer_stats import LayerStats

if TYPE_CHECKING:
    from saelib.init_death.result import InitDeath
    from saelib.theory.closed_forms import Prediction


def measure_init_death(
    activations: Source,
    *,
    d_sae: int,
    k: int,
    preprocessings: Sequence[PreprocessingName] = ("raw", "center_median", "pca"),
    fitted_to: LayerStats | Source | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    threads: int = 1,
    device: str = "cpu",
) -> "InitDeath":
    """Measures the fraction of latents that are dead in untrained TopK SAEs, under each preprocessing.

    `result["raw"].dead_total.mean` is the fraction of all dead latents: the sum of `dead_relu` (positive on no token)
    and `dead_topk_only` (positive on some token, but never among the k largest).

    Args:
        activations: The tokens to measure on: anything that `open_activations` takes.
        d_sae: Latents of each dictionary.
        k: Latents that are selected for a token.
        preprocessings: Names of the preprocessings to compare.
        fitted_to: Other tokens of the layer, or their statistics, to fit the preprocessings to. Without it, they are
            fitted to the measured tokens, which makes them look slightly better than they are.
        seeds: Seeds of the random dictionaries, one for each.
        threads: CPU threads to use. The result is the same, bit for bit, with any number.
        device: A GPU as torch names it, such as "cuda", to compute the statistics and count on. Of statistics that are
            given, the counts are the same as on a CPU, to the last latent.

    Raises:
        UserError: If sizes are impossible, a value is not finite, a preprocessing cannot be fitted, or there is no such
            device.

    Example:
        >>> death = saelib.measure_init_death(acts, d_sae=256, k=8)
        >>> 0.3 < death["raw"].dead_total.mean < 0.9
        True
        >>> death["center_median"].dead_relu.mean
        0.0
    """
    from saelib.init_death.measure import measure
    from saelib.preprocessing.fit import make_preprocessing

    rows = open_activations(activations).rows
    if isinstance(fitted_to, LayerStats):
        stats = fitted_to
    else:
        stats = compute_stats(rows if fitted_to is None else fitted_to, device=device)
    fitted = {
        name: make_preprocessing(name, stats.arrays, tokens=stats.tokens, name=rows.name) for name in preprocessings
    }
    return measure(rows, fitted, d_sae, k, seeds, threads, device)


def predict_death(gamma: float | LayerStats, *, d_sae: int, k: int, tokens: int = 100_000) -> "Prediction":
    """Predicts the fraction of latents that are dead at initialization by closed forms, without any data.

    Args:
        gamma: ||mean|| / ||std|| of the tokens at unit norm (`gamma_unit`), or the statistics that contain it.
        d_sae: Latents of the SAE.
        k: Latents that are selected for a token.
        tokens: Tokens on which a latent may fire. With more tokens, fewer latents are dead.

    Raises:
        UserError: If gamma is negative or not finite, or if sizes are impossible.

    Example:
        >>> round(saelib.predict_death(5.0, d_sae=8192, k=64).dead_relu, 2)
        0.2
    """
    from saelib.theory.closed_forms import predict

    severity = gamma.gamma_unit if isinstance(gamma, LayerStats) else gamma
    if severity is None:
        raise UserError("gamma_unit is not defined, because all tokens point in the same direction")
    return predict(severity, d_sae, k, tokens)
