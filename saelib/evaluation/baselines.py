"""Baselines that any trained SAE should beat: random directions, raw neurons, principal components."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelib.errors import UserError
from saelib.evaluation.directions import unit_rows
from saelib.evaluation.inputs import Matrix, check_widths, read_matrix


class FixedDirections:
    """An SAE that nobody trained: a latent's code is the positive part of a projection onto a fixed direction.

    z = TopK(ReLU((x - center) D^T)) and x_hat = z D + center, with directions D of length 1. It can be given to every
    measure that takes an SAE.
    """

    def __init__(self, directions: Matrix, center: ArrayLike, k: int | None = None) -> None:
        """Takes directions [latents, d], a center [d], and the number of latents kept for a token (None: all).

        Raises:
            UserError: If sizes do not fit.
        """
        self.directions = unit_rows(read_matrix(directions, "directions")).astype(np.float32)
        self.center = read_matrix(np.atleast_2d(np.asarray(center)), "center")[0].astype(np.float32)
        check_widths(self.directions, self.center[None], ("directions", "the center"))
        if k is not None and not 1 <= k <= len(self.directions):
            raise UserError(f"k is {k}; should be from 1 to the number of latents, {len(self.directions)}")
        self.k = k

    def encode(self, x: Any) -> NDArray[np.float32]:
        """Computes the codes of activations: [tokens, d] -> [tokens, latents]."""
        rows = read_matrix(x, "activations").astype(np.float32)
        check_widths(rows, self.center[None], ("activations", "the center"))
        codes = np.maximum((rows - self.center) @ self.directions.T, 0)
        if self.k is None or self.k == codes.shape[1]:
            return codes
        kept = np.argpartition(-codes, self.k - 1, axis=1)[:, : self.k]
        sparse = np.zeros_like(codes)
        np.put_along_axis(sparse, kept, np.take_along_axis(codes, kept, axis=1), axis=1)
        return sparse

    def reconstruct(self, x: Any) -> NDArray[np.float32]:
        """Encodes and decodes activations: [tokens, d] -> [tokens, d]."""
        return self.encode(x) @ self.directions + self.center


def random_sae(center: ArrayLike, d_sae: int, k: int, seed: int = 0) -> FixedDirections:
    """Makes an untrained TopK SAE with random directions, which start at `center`.

    Args:
        center: The center of the activations, [d]: `saelib.fit_preprocessing("center_median", acts).center`. With the
            origin as center, most latents are dead on layers with a large mean.
        d_sae: Number of latents.
        k: Latents that are kept for a token.
        seed: Decides the directions.

    Raises:
        UserError: If k is larger than d_sae.

    Example:
        >>> acts = np.random.default_rng(1).normal(size=(50, 8))
        >>> evaluation.sparse_codes(acts, evaluation.random_sae(acts.mean(0), d_sae=64, k=4)).shape
        (50, 64)
    """
    width = np.asarray(center).shape[-1]
    return FixedDirections(np.random.default_rng(seed).standard_normal((d_sae, width)), center, k)


def neuron_sae(center: ArrayLike) -> FixedDirections:
    """Makes latents of raw neurons: the parts of each dimension above its center, then those below, 2 d in all.

    Args:
        center: The center of the activations, [d].

    Raises:
        UserError: If the center is not [d].

    Example:
        >>> neurons = evaluation.neuron_sae([1.0, 0.0])
        >>> neurons.encode([[3.0, -1.0]]).tolist(), neurons.reconstruct([[3.0, -1.0]]).tolist()
        ([[2.0, 0.0, 0.0, 1.0]], [[3.0, -1.0]])
    """
    eye = np.eye(np.asarray(center).shape[-1])
    return FixedDirections(np.concatenate([eye, -eye]), center)


def pca_sae(components: Matrix, center: ArrayLike, k: int | None = None) -> FixedDirections:
    """Makes two latents of each principal component, one for each of its directions.

    Args:
        components: Leading principal components, one per row, [r, d]: the first columns of the `eigenvectors` that
            `saelib.compute_stats` gives, transposed.
        center: The center of the activations, [d].
        k: Latents that are kept for a token; all if None.

    Raises:
        UserError: If sizes do not fit.

    Example:
        >>> found = evaluation.pca_sae([[0.6, 0.8]], center=[0.0, 0.0]).encode([[3.0, 4.0], [-3.0, -4.0]])
        >>> found.round(3).tolist()
        [[5.0, 0.0], [0.0, 5.0]]
    """
    rows = read_matrix(components, "components")
    return FixedDirections(np.concatenate([rows, -rows]), center, k)
