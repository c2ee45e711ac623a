"""Monosemanticity: do the inputs that activate a latent look alike to an independent model?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from saelib.errors import UserError
from saelib.evaluation.directions import unit_rows
from saelib.evaluation.inputs import Codes, Matrix, read_codes, read_matrix

NO_PAIRS = 1e-12
"""Weights of pairs whose sum is a smaller share of all weights are nothing but rounding."""
BLOCK = 4096
"""Inputs that are added together."""


class MonosemanticityMeter:
    """Adds up monosemanticity scores over batches of inputs, in memory [latents, width of the embeddings].

    The scores equal the definition over all pairs of inputs (Pach et al., 2025) without a loop over pairs: with
    weights a and embeddings e of length 1, the sum over pairs of a_i a_j cos(e_i, e_j) is
    (||sum a_i e_i||^2 - sum a_i^2) / 2, and that of a_i a_j is ((sum a_i)^2 - sum a_i^2) / 2.
    """

    def __init__(self) -> None:
        """Starts without inputs; the first batch decides the sizes."""
        self._sums: _Sums | None = None

    def add(self, feature_acts: Codes, embeddings: Matrix) -> None:
        """Adds inputs.

        Args:
            feature_acts: Activations of latents or neurons, [inputs, latents], dense or sparse.
            embeddings: An independent model's embeddings of the same inputs, [inputs, e].

        Raises:
            UserError: If sizes do not fit, or if a value is NaN or infinite.
        """
        embedded = unit_rows(read_matrix(embeddings, "embeddings").astype(np.float64))
        is_sparse = sparse.issparse(feature_acts)
        read: Any = read_codes if is_sparse else read_matrix
        acts = read(feature_acts, "feature_acts")
        if acts.shape[0] != len(embedded):
            raise UserError(f"{acts.shape[0]} rows of feature_acts and {len(embedded)} embeddings; should be as many")
        for start in range(0, len(embedded), BLOCK):
            block = acts[start : start + BLOCK].astype(np.float64)
            if self._sums is None:
                # Sums of values near 0, because a neuron's large mean would cost digits.
                pilot = np.zeros(acts.shape[1]) if is_sparse else block.mean(axis=0)
                self._sums = _Sums(pilot, embedded.shape[1])
            self._sums.add(block, embedded[start : start + BLOCK])

    def scores(self) -> NDArray[np.float64]:
        """Computes the score of each latent, [latents]; NaN for latents that no two inputs activate."""
        if self._sums is None:
            raise UserError("monosemanticity: there are no inputs")
        return self._sums.scores()


class _Sums:
    """Sums over inputs, from which the scores follow once each latent's least and largest value are known."""

    def __init__(self, pilot: NDArray[np.floating], width: int) -> None:
        latents = len(pilot)
        self.pilot = pilot
        self.least, self.largest = np.full(latents, np.inf), np.full(latents, -np.inf)
        self.embedded = np.zeros((latents, width))
        """Sum of a e."""
        self.moments = np.zeros((3, latents))
        """Sums of 1, a and a^2."""
        self.own = np.zeros((3, latents))
        """The same over inputs whose embedding is not 0, which have a cosine of 1 with themselves."""
        self.all_embeddings = np.zeros(width)

    def add(self, acts: Any, embedded: NDArray[np.floating]) -> None:
        """Adds activations [inputs, latents], sparse or not, and embeddings of length 1 [inputs, e]."""
        if acts.shape[1] != len(self.pilot) or embedded.shape[1] != len(self.all_embeddings):
            raise UserError(
                f"{acts.shape[1]} latents and embeddings of width {embedded.shape[1]}; should be {len(self.pilot)} "
                f"and {len(self.all_embeddings)}, as in the batches before"
            )
        if sparse.issparse(acts) and self.pilot.any():
            acts = acts.toarray()
        if not sparse.issparse(acts):
            acts = acts - self.pilot
        self.least = np.minimum(self.least, _dense(acts.min(axis=0)))
        self.largest = np.maximum(self.largest, _dense(acts.max(axis=0)))
        self.embedded += acts.T @ embedded
        self.all_embeddings += embedded.sum(axis=0)
        squares = acts.multiply(acts) if sparse.issparse(acts) else acts * acts
        exists = (embedded != 0).any(axis=1).astype(np.float64)
        for sums, weights in ((self.moments, np.ones(len(embedded))), (self.own, exists)):
            sums += np.stack([np.full(len(self.pilot), weights.sum()), acts.T @ weights, squares.T @ weights])

    def scores(self) -> NDArray[np.float64]:
        """Computes the scores from activations that are scaled to [0, 1]; the scale itself cancels."""
        inputs, total, _ = self.moments
        total = total - inputs * self.least
        pairs = total**2 - self._squares(self.moments)
        alive = (self.largest > self.least) & (pairs > NO_PAIRS * total**2)
        weighted = self.embedded - np.outer(self.least, self.all_embeddings)
        agreement = np.einsum("le,le->l", weighted, weighted) - self._squares(self.own)
        return np.divide(agreement, pairs, out=np.full(len(total), np.nan), where=alive)

    def _squares(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums (a - least)^2."""
        return sums[2] - 2 * self.least * sums[1] + sums[0] * self.least**2


def monosemanticity(feature_acts: Codes, embeddings: Matrix) -> NDArray[np.float64]:
    """Computes the monosemanticity score of each latent: how alike the inputs that activate it are.

    The score is the mean cosine of the embeddings of two inputs over all pairs, weighted by the product of the
    latent's activations on them, each scaled to [0, 1] by its least and largest value (Pach et al., 2025, 'Sparse
    Autoencoders Learn Monosemantic Features in Vision-Language Models'). It works for raw neurons too. Time grows with
    the number of inputs and not of pairs. `MonosemanticityMeter` does the same batch by batch.

    Compare it with the mean cosine of all pairs, which any latent that fires at random has: embeddings of most models
    are alike to begin with.

    Args:
        feature_acts: Activations of latents or neurons, [inputs, latents], dense or sparse.
        embeddings: Embeddings of the same inputs, [inputs, e], of a model other than the one the SAE reads.

    Returns:
        The scores, [latents], from -1 to 1. NaN for dead latents, and for others that no two inputs activate.

    Raises:
        UserError: If sizes do not fit, or if a value is NaN or infinite.

    Example:
        >>> cats_and_dogs = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
        >>> acts = np.array([[2.0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
        >>> evaluation.monosemanticity(acts, cats_and_dogs).tolist()
        [1.0, 0.0, nan]
    """
    meter = MonosemanticityMeter()
    meter.add(feature_acts, embeddings)
    return meter.scores()


def _dense(values: Any) -> NDArray[np.float64]:
    return values.toarray().ravel() if sparse.issparse(values) else values
