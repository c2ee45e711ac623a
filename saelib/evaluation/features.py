"""Scores an SAE against data whose true features are known, by the names of SAELens' SynthSAEBench."""

import math
from dataclasses import dataclass

import numpy as np

from saelib.errors import UserError
from saelib.evaluation.directions import best_match, mcc, mmcs, unit_rows
from saelib.evaluation.inputs import Codes, Matrix, check_widths, read_codes, read_matrix
from saelib.evaluation.sums import ErrorSums

SHORTEST = 1e-6
"""Activations that are shorter than this have no shrinkage."""


@dataclass(frozen=True)
class FeatureScores:
    """Scores of an SAE that should have recovered known features."""

    mcc: float
    """Mean |cosine| of decoder directions and features, matched one-to-one."""
    mmcs: float
    """Mean over features of the largest signed cosine with any decoder direction (the paper's measure)."""
    f1: float
    """Each latent is judged as a detector of the feature that its decoder direction has the largest |cosine| with.
    This is the mean over latents of the harmonic mean of their precision and recall; dead latents count as 0."""
    precision: float
    """Mean over latents of the share of their firings at which the feature was present."""
    recall: float
    """Mean over latents of the share of the feature's presences at which they fired."""
    uniqueness: float
    """Number of different features that latents are closest to, over the number of latents."""
    explained_variance: float | None
    """1 - sum ||x - x_hat||^2 / sum ||x - mean||^2; None if no reconstructions were given."""
    sae_l0: float
    """Latents that fire for a token, on average."""
    true_l0: float
    """Features that are present in a token, on average."""
    dead_latents: int
    """Number of latents that never fired."""
    shrinkage: float | None
    """Mean over tokens of ||x_hat|| / ||x||; 1 if nothing shrinks. None if no reconstructions were given."""


class FeatureMeter:
    """Adds up `FeatureScores` over batches, for data that does not fit into memory."""

    def __init__(self, true_directions: Matrix, learned_directions: Matrix) -> None:
        """Takes the features [features, d] and the rows of `W_dec` [latents, d]."""
        self._true = unit_rows(read_matrix(true_directions, "true_directions"))
        self._learned = unit_rows(read_matrix(learned_directions, "learned_directions"))
        check_widths(self._true, self._learned, ("true_directions", "learned_directions"))
        self._closest, _ = best_match(self._learned, self._true, absolute=True)
        latents = len(self._learned)
        self._hits, self._fires, self._present = (np.zeros(latents, np.int64) for _ in range(3))
        self._true_active = self._tokens = 0
        self._errors = ErrorSums()
        self._ratios, self._long_enough = 0.0, 0

    def add(
        self,
        true_acts: Codes,
        latent_acts: Codes,
        activations: Matrix | None = None,
        reconstructions: Matrix | None = None,
    ) -> None:
        """Adds a batch of tokens.

        Args:
            true_acts: Activations of the features, [tokens, features]; a feature is present if its value is above 0.
            latent_acts: Codes of the SAE, [tokens, latents]; a latent fires if its value is not 0.
            activations: The activations that the SAE read, [tokens, d].
            reconstructions: Its reconstructions of them, [tokens, d].

        Raises:
            UserError: If sizes do not fit, or if a value is NaN or infinite.
        """
        present, fires = read_codes(true_acts, "true_acts"), read_codes(latent_acts, "latent_acts")
        tokens = present.shape[0]
        _expect(present.shape, (tokens, len(self._true)), "true_acts")
        _expect(fires.shape, (tokens, len(self._learned)), "latent_acts")
        if activations is not None and reconstructions is not None:
            self._add_reconstructions(activations, reconstructions, tokens)
        fires.data, present.data = np.ones(fires.nnz, np.int64), (present.data > 0).astype(np.int64)
        wanted = present.tocsc()[:, self._closest]
        self._hits += fires.multiply(wanted).sum(axis=0)
        self._fires += fires.sum(axis=0)
        self._present += wanted.sum(axis=0)
        self._true_active += int(present.data.sum())
        self._tokens += tokens

    def _add_reconstructions(self, activations: Matrix, reconstructions: Matrix, tokens: int) -> None:
        x, x_hat = read_matrix(activations, "activations"), read_matrix(reconstructions, "reconstructions")
        _expect(x.shape, (tokens, self._true.shape[1]), "activations")
        _expect(x_hat.shape, x.shape, "reconstructions")
        self._errors.add(x, x_hat)
        lengths = np.linalg.norm(x, axis=1)
        long_enough = lengths > SHORTEST
        self._ratios += float((np.linalg.norm(x_hat, axis=1)[long_enough] / lengths[long_enough]).sum(dtype=np.float64))
        self._long_enough += int(long_enough.sum())

    def scores(self) -> FeatureScores:
        """Computes the scores over all tokens so far."""
        if not self._tokens:
            raise UserError("feature scores: there are no tokens")
        precision = self._hits / np.maximum(self._fires, 1)
        recall = self._hits / np.maximum(self._present, 1)
        f1 = 2 * self._hits / np.maximum(self._fires + self._present, 1)
        reconstructed = self._errors.tokens > 0
        return FeatureScores(
            mcc=mcc(self._true, self._learned),
            mmcs=mmcs(self._true, self._learned),
            f1=float(f1.mean()),
            precision=float(precision.mean()),
            recall=float(recall.mean()),
            uniqueness=len(np.unique(self._closest)) / len(self._learned),
            explained_variance=self._errors.explained_variance if reconstructed else None,
            sae_l0=int(self._fires.sum()) / self._tokens,
            true_l0=self._true_active / self._tokens,
            dead_latents=int((self._fires == 0).sum()),
            shrinkage=(self._ratios / self._long_enough if self._long_enough else math.nan) if reconstructed else None,
        )


def feature_scores(
    true_directions: Matrix,
    learned_directions: Matrix,
    true_acts: Codes,
    latent_acts: Codes,
    activations: Matrix | None = None,
    reconstructions: Matrix | None = None,
) -> FeatureScores:
    """Scores an SAE on synthetic data, by the names and definitions of SAELens' SynthSAEBench.

    Use it if the true features of the data are known. `FeatureMeter` does the same batch by batch.

    Args:
        true_directions: The features, one per row, [features, d].
        learned_directions: The decoder, one direction per row, [latents, d].
        true_acts: Activations of the features, [tokens, features], dense or sparse.
        latent_acts: Codes of the SAE, [tokens, latents], dense or sparse.
        activations: The activations that the SAE read, [tokens, d].
        reconstructions: Its reconstructions of them, [tokens, d]. Without these two, explained variance and shrinkage
            are None.

    Raises:
        UserError: If sizes do not fit, or if a value is NaN or infinite.

    Example:
        >>> acts = np.abs(np.random.default_rng(0).normal(size=(100, 4)))
        >>> found = evaluation.feature_scores(np.eye(4), np.eye(4), acts, acts, acts, acts / 2)
        >>> found.mcc, found.f1, found.uniqueness, round(found.shrinkage, 3)
        (1.0, 1.0, 1.0, 0.5)
    """
    meter = FeatureMeter(true_directions, learned_directions)
    meter.add(true_acts, latent_acts, activations, reconstructions)
    return meter.scores()


def _expect(found: tuple[int, ...], wanted: tuple[int, ...], name: str) -> None:
    if found != wanted:
        raise UserError(f"{name}: has the shape {list(found)}; should be {list(wanted)}")
