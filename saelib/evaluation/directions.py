"""Compares directions: those that an SAE learned with known ones, and the dictionaries of several SAEs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.errors import UserError
from saelib.evaluation.inputs import Matrix, check_widths, read_matrix

AT_A_TIME = 2**24
"""Cosines that are held at once if only the largest of each row is needed."""


class Matching(NamedTuple):
    """Pairs of rows of two dictionaries, one-to-one, that have the largest possible sum of |cosine|."""

    first: NDArray[np.intp]
    """[pairs]: the rows of the first dictionary, in order."""
    second: NDArray[np.intp]
    """[pairs]: the rows of the second one that they are matched with."""
    cosines: NDArray[np.floating]
    """[pairs]: the absolute cosine of each pair."""

    def shared(self, threshold: float = 0.7) -> int:
        """Counts the pairs whose |cosine| is at least `threshold`: latents that the two dictionaries share."""
        return int((self.cosines >= threshold).sum())


class PairwiseMCC(NamedTuple):
    """Agreement of several dictionaries with one another."""

    mean: float
    """PW-MCC: the mean of `mcc` over all pairs of different dictionaries."""
    pairs: NDArray[np.float64]
    """[dictionaries, dictionaries]: `mcc` of each pair; 1 on the diagonal."""


def mmcs(true_directions: Matrix, learned_directions: Matrix) -> float:
    """Computes the mean max cosine similarity of known directions with learned ones.

    For each true direction, it takes the largest signed cosine with any learned direction, and averages. Several true
    directions may take the same learned one; `mcc` forbids that. Directions of dead latents count like all others, so
    random directions do not give 0: 100 of them in 50 dimensions give about 0.35 for random true ones.

    Args:
        true_directions: One direction per row, [features, d]. The lengths make no difference.
        learned_directions: One direction per row, [latents, d]: `W_dec` of an SAE.

    Returns:
        A number from -1 to 1; 1 if every true direction is among the learned ones. A row of zeros has cosine 0 with
        everything.

    Raises:
        UserError: If the two have rows of different lengths, or hold NaN or infinity.

    Example:
        >>> evaluation.mmcs(np.eye(4), 3 * np.eye(4)[::-1])
        1.0
    """
    true, learned = _pair(true_directions, learned_directions)
    return float(best_match(true, learned)[1].mean(dtype=np.float64))


def mcc(true_directions: Matrix, learned_directions: Matrix) -> float:
    """Computes the mean correlation coefficient of two sets of directions, matched one-to-one.

    The matching maximizes the sum of |cosine|; its mean over pairs is the result. If one set is smaller, only as many
    pairs as it has rows are made. A direction and its negative count as the same. Directions of dead latents count
    like all others. Time grows with the cube of the number of rows: 4,096 against 4,096 take seconds.

    Args:
        true_directions: One direction per row, [features, d].
        learned_directions: One direction per row, [latents, d]: `W_dec` of an SAE.

    Returns:
        A number from 0 to 1.

    Raises:
        UserError: If the two have rows of different lengths, or hold NaN or infinity.

    Example:
        >>> evaluation.mcc(np.eye(4), -np.eye(4)[::-1])
        1.0
    """
    return float(match(true_directions, learned_directions).cosines.mean(dtype=np.float64))


def match(first: Matrix, second: Matrix) -> Matching:
    """Matches the rows of two dictionaries one-to-one with the largest possible sum of |cosine|.

    Use it to ask which latent of one SAE is which latent of another, and how many they share.

    Args:
        first: One direction per row, [latents, d].
        second: One direction per row, [latents of the other, d].

    Raises:
        UserError: If the two have rows of different lengths, or hold NaN or infinity.

    Example:
        >>> found = evaluation.match(np.eye(3), np.eye(3)[[2, 0, 1]])
        >>> found.second.tolist(), found.shared()
        ([1, 2, 0], 3)
    """
    from scipy.optimize import linear_sum_assignment

    one, other = _pair(first, second)
    cosines = np.abs(one @ other.T).clip(max=1)
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return Matching(rows, columns, cosines[rows, columns])


def pw_mcc(dictionaries: Sequence[Matrix]) -> PairwiseMCC:
    """Computes how far several dictionaries agree: `mcc` of every pair, and the mean over pairs (PW-MCC).

    Use it for SAEs that differ only in their seed, to learn how much of their latents is chance.

    Args:
        dictionaries: Two or more matrices of directions, [latents, d] each: `W_dec` of each SAE.

    Raises:
        UserError: If there are fewer than two, if their rows differ in length, or if one holds NaN or infinity.

    Example:
        >>> found = evaluation.pw_mcc([np.eye(3), -np.eye(3), np.eye(3)[::-1]])
        >>> found.mean, found.pairs.shape
        (1.0, (3, 3))
    """
    if len(dictionaries) < 2:
        raise UserError(f"pw_mcc: got {len(dictionaries)} dictionary; should be two or more, to be compared in pairs")
    read = [read_matrix(one, f"dictionary {number}") for number, one in enumerate(dictionaries)]
    pairs = np.eye(len(read))
    for i, j in zip(*np.triu_indices(len(read), k=1), strict=True):
        pairs[i, j] = pairs[j, i] = mcc(read[i], read[j])
    return PairwiseMCC(float(pairs[np.triu_indices(len(read), k=1)].mean()), pairs)


def best_match(
    first: NDArray[np.floating], second: NDArray[np.floating], absolute: bool = False
) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
    """Finds the row of `second` that has the largest cosine with each row of `first`.

    Args:
        first: Rows of length 1 (or 0), [n, d].
        second: Rows of length 1 (or 0), [m, d].
        absolute: Compare by |cosine|.

    Returns:
        The numbers of the rows of `second`, [n], and their cosines, [n].
    """
    which = np.empty(len(first), np.intp)
    largest = np.empty(len(first), np.result_type(first, second))
    step = max(1, AT_A_TIME // len(second))
    for start in range(0, len(first), step):
        cosines = first[start : start + step] @ second.T
        if absolute:
            np.abs(cosines, out=cosines)
        which[start : start + step] = cosines.argmax(axis=1)
        largest[start : start + step] = cosines.max(axis=1)
    return which, largest.clip(-1, 1)


def unit_rows(directions: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scales each row to length 1; a row of zeros stays as it is."""
    scaled = directions / np.maximum(np.abs(directions).max(axis=1, keepdims=True), np.finfo(directions.dtype).tiny)
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-30)


def _pair(first: Matrix, second: Matrix) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    one, other = read_matrix(first, "the first directions"), read_matrix(second, "the second directions")
    check_widths(one, other, ("the first directions", "the second"))
    return unit_rows(one), unit_rows(other)
