"""Computes statistics of activations, and fits preprocessings to them."""

from saelib.api.activations import Source, open_activations
from saelib.config.preprocessings import PreprocessingConfig, PreprocessingName
from saelib.preprocessing.transform import Preprocessing
from saelib.stats.layer_stats import LayerStats


def compute_stats(activations: Source, *, workers: int = 1, whitening: bool = True, device: str = "cpu") -> LayerStats:
    """Computes gamma, effective rank, kurtosis, token norms and centers of a layer's activations.

    Args:
        activations: Anything that `open_activations` takes. Activations of any size are read block by block.
        workers: CPU threads to use. The result is the same, bit for bit, with any number.
        whitening: Whether to compute eigenvectors too, which the preprocessings `pca` and `partial_pca` need.
        device: A GPU as torch names it, such as "cuda": it computes Gram matrices and geometric medians, in float64.
            Results differ from the CPU's by less than 1e-6 of a gamma and, for a center, of sigma.

    Raises:
        UserError: If a value is not finite, if all tokens are equal, or if there is no such device.

    Example:
        >>> stats = saelib.compute_stats(acts)
        >>> stats.d_in, stats.tokens
        (32, 4000)
    """
    from saelib.stats.compute import compute_stats as compute

    _check(device)
    return compute(open_activations(activations).rows, workers=workers, whitening=whitening, device=device)


def _check(device: str) -> None:
    if device != "cpu":
        from saelib.sources.base import torch_device

        torch_device(device)


def fit_preprocessing(
    kind: PreprocessingName | PreprocessingConfig, fitted_to: LayerStats | Source, name: str = "activations"
) -> Preprocessing:
    """Fits a preprocessing to activations: `apply` turns tokens into what an SAE reads, `restore` turns them back.

    Args:
        kind: Name of the preprocessing, such as `raw`, `center_median` or `pca` (docs/training.md lists all), or one
            with options, such as `PartialWhitening(kind="partial_pca", alpha=0.5)` of `saelib.config.preprocessings`.
        fitted_to: Statistics from `compute_stats`, or the activations themselves.
        name: The name of the activations in messages.

    Raises:
        UserError: If the kind is unknown, or if the activations do not determine the preprocessing.

    Example:
        >>> center = saelib.fit_preprocessing("center_median", acts)
        >>> x = center.apply(acts[:100])
        >>> np.allclose(center.restore(x, acts[:100]), acts[:100], atol=1e-4)
        True
    """
    from saelib.preprocessing.fit import make_preprocessing

    stats = fitted_to if isinstance(fitted_to, LayerStats) else compute_stats(fitted_to)
    return make_preprocessing(kind, stats.arrays, tokens=stats.tokens, name=name)
