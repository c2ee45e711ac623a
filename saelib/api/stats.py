"""Statistics of activations, and the preprocessings that are fitted to them."""

from saelib.api.activations import Source, open_activations
from saelib.config.training import PreprocessingConfig, PreprocessingName
from saelib.preprocessing.transform import Preprocessing
from saelib.stats.layer_stats import LayerStats


def compute_stats(activations: Source, *, workers: int = 1, whitening: bool = True) -> LayerStats:
    """Computes gamma, effective rank, kurtosis, token norms and centers of a layer's activations.

    Args:
        activations: What `open_activations` takes; of any size, read block by block.
        workers: Threads that share the work; they change no bit of the result.
        whitening: Whether eigenvectors are computed too, which the preprocessings `pca` and `partial_pca` need.

    Raises:
        UserError: Where a value is not finite, or all tokens are the same.

    Example:
        >>> stats = saelib.compute_stats(acts)
        >>> stats.d_in, stats.tokens
        (32, 4000)
    """
    from saelib.stats.compute import compute_stats as compute

    return compute(open_activations(activations).rows, workers=workers, whitening=whitening)


def fit_preprocessing(
    kind: PreprocessingName | PreprocessingConfig, fitted_to: LayerStats | Source, name: str = "activations"
) -> Preprocessing:
    """Fits a preprocessing to activations: `apply` turns tokens into what an SAE reads, `restore` turns them back.

    Args:
        kind: `raw`, `center_median`, `center_mean`, `pca` and so on (docs/training.md lists them all), or one with
            options, such as `PartialWhitening(kind="partial_pca", alpha=0.5)` of `saelib.config.training`.
        fitted_to: What `compute_stats` returned, or the activations themselves.
        name: What messages call them.

    Raises:
        UserError: For an unknown kind, and where the activations do not determine it.

    Example:
        >>> center = saelib.fit_preprocessing("center_median", acts)
        >>> x = center.apply(acts[:100])
        >>> np.allclose(center.restore(x, acts[:100]), acts[:100], atol=1e-4)
        True
    """
    from saelib.preprocessing.fit import make_preprocessing

    stats = fitted_to if isinstance(fitted_to, LayerStats) else compute_stats(fitted_to)
    return make_preprocessing(kind, stats.arrays, tokens=stats.tokens, name=name)
