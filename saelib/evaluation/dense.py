"""Dense latents: how many there are, and whether they carry the directions of the largest variance or mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelib.errors import UserError
from saelib.evaluation.directions import unit_rows
from saelib.evaluation.inputs import Matrix, check_widths, read_matrix

DENSE = 0.1
"""Firing rate above which a latent is called dense."""


@dataclass(frozen=True, eq=False)
class DenseLatents:
    """Latents that fire for many tokens, and the subspaces that their decoder directions lie in.

    Overlaps are shares of squared length that lie within a subspace: 1 for a direction within it, and the number of
    its dimensions over d for a random direction. They are NaN if there are no such latents.
    """

    latents: NDArray[np.intp]
    """The dense latents, the one that fires most first."""
    share: float
    """Share of all latents that are dense."""
    in_components: float
    """Mean overlap of dense latents with the leading principal components."""
    others_in_components: float
    """That of the other latents that fire."""
    chance_in_components: float
    """That of a random direction."""
    in_outlier_dimensions: float
    """Mean overlap of dense latents with the outlier dimensions."""
    others_in_outlier_dimensions: float
    """That of the other latents that fire."""
    chance_in_outlier_dimensions: float
    """That of a random direction."""


def dense_latents(
    firing_rates: ArrayLike,
    directions: Matrix,
    components: Matrix,
    outlier_dimensions: Sequence[int] = (),
    above: float = DENSE,
) -> DenseLatents:
    """Finds dense latents, and tells whether they carry the leading principal components or outlier dimensions.

    Dense latents may stand for no feature, but for something that is large in every token: the mean, the first
    principal components, or dimensions of extreme values.

    Args:
        firing_rates: Share of tokens for which each latent fires, [latents]: `CoreMetrics.firing_rates`.
        directions: The decoder, one direction per row, [latents, d].
        components: Leading principal components, one per row, [r, d]: the first columns of the `eigenvectors` that
            `saelib.compute_stats` gives, transposed.
        outlier_dimensions: Numbers of the outlier dimensions.
        above: The firing rate above which a latent is called dense.

    Raises:
        UserError: If sizes do not fit, or if there is no such dimension.

    Example:
        >>> found = evaluation.dense_latents([0.9, 0.01, 0.0], np.eye(3), np.eye(3)[:1], outlier_dimensions=[2])
        >>> found.latents.tolist(), found.in_components, found.others_in_components, found.in_outlier_dimensions
        ([0], 1.0, 0.0, 0.0)
    """
    rates, decoder = np.asarray(firing_rates, np.float64), unit_rows(read_matrix(directions, "directions"))
    basis = read_matrix(components, "components")
    check_widths(decoder, basis, ("directions", "components"))
    d = decoder.shape[1]
    if rates.shape != (len(decoder),):
        raise UserError(f"firing_rates: has the shape {list(rates.shape)}; should be [{len(decoder)}], as directions")
    if wrong := [dimension for dimension in outlier_dimensions if not 0 <= dimension < d]:
        raise UserError(f"outlier_dimensions: there is no dimension {wrong[0]}; should be from 0 to {d - 1}")
    spanned, _ = np.linalg.qr(basis.T)
    in_components = np.square(decoder @ spanned).sum(axis=1)
    in_dimensions = np.square(decoder[:, list(outlier_dimensions)]).sum(axis=1)
    dense = rates > above
    others = ~dense & (rates > 0)
    return DenseLatents(
        latents=np.flatnonzero(dense)[np.argsort(-rates[dense], kind="stable")],
        share=float(dense.mean()),
        in_components=_mean(in_components[dense]),
        others_in_components=_mean(in_components[others]),
        chance_in_components=spanned.shape[1] / d,
        in_outlier_dimensions=_mean(in_dimensions[dense]),
        others_in_outlier_dimensions=_mean(in_dimensions[others]),
        chance_in_outlier_dimensions=len(set(outlier_dimensions)) / d,
    )


def _mean(values: NDArray[np.floating]) -> float:
    return float(values.mean()) if len(values) else float("nan")
