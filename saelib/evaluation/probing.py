"""k-sparse probing, as sae-probes defines it: how well do the k best latents together tell a concept?"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelib.errors import UserError
from saelib.evaluation.inputs import Codes, read_codes
from saelib.evaluation.labels import Labels

if TYPE_CHECKING:
    import polars as pl

Penalty = Literal["l1", "l2"]
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
INVERSE_PENALTIES = tuple(10.0 ** (5 - 10 * step / 9) for step in reversed(range(10)))
"""Values of C that are tried, from 1e-5 to 1e5."""
SMALL = 1e-6


class ProbeScores(NamedTuple):
    """Scores of a probe on k latents, on the test tokens."""

    k: int
    auc: float
    """Area under the ROC curve; 0.5 is chance."""
    accuracy: float
    f1: float
    """F1 of both classes, weighted by their sizes."""
    validation_auc: float
    """AUC on the training tokens that were set aside to choose the strength of the penalty."""
    latents: tuple[int, ...]
    """The k latents, the one that differs most between the classes first."""


def k_sparse_probe(
    train_codes: Codes,
    train_truth: ArrayLike,
    test_codes: Codes,
    test_truth: ArrayLike,
    ks: Sequence[int] = KS,
    penalty: Penalty = "l1",
    seed: int = 0,
) -> list[ProbeScores]:
    """Trains logistic probes on the k latents that tell two classes of tokens apart best, as sae-probes does.

    Latents are ranked by the difference between their means over the two classes, each divided by its mean over the
    training tokens for which it fires. The inverse strength of the penalty is chosen from ten values from 1e-5 to 1e5
    by the AUC on validation tokens: a fifth of the training tokens, at most 100; six folds if there are fewer than
    128; or every pair if there are at most 12. The final probe is trained on all training tokens.

    Probing is only informative next to the same probe on raw neurons, and on the codes of a random SAE.

    Args:
        train_codes: Codes [tokens, latents], dense or sparse. sae-probes takes 1,024 tokens, half of each class.
        train_truth: Whether each training token belongs to the concept, [tokens].
        test_codes: Codes of other tokens.
        test_truth: Whether they belong to it.
        ks: Numbers of latents; those above the number of all latents are left out.
        penalty: `l1` or `l2`, as of scikit-learn's LogisticRegression; the intercept has none.
        seed: Decides which training tokens validate.

    Raises:
        UserError: If sizes do not fit, or if a set of tokens has one class only.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.random(300) < 0.5
        >>> codes = rng.exponential(size=(300, 20)) + 2.0 * truth[:, None] * (np.arange(20) == 7)
        >>> (found,) = evaluation.k_sparse_probe(codes[:200], truth[:200], codes[200:], truth[200:], ks=[1])
        >>> found.latents, found.auc > 0.9
        ((7,), True)
    """
    train, test = read_codes(train_codes, "train_codes"), read_codes(test_codes, "test_codes")
    y, wanted = _truth(train_truth, train, "train"), _truth(test_truth, test, "test")
    if train.shape[1] != test.shape[1]:
        raise UserError(f"train_codes have {train.shape[1]} latents and test_codes {test.shape[1]}; should be as many")
    order = np.random.default_rng(seed).permutation(len(y))
    train, y = train[order], y[order]
    ranked = rank_latents(train, y)
    scores = []
    for k in (k for k in ks if k <= train.shape[1]):
        chosen = ranked[:k]
        x, x_test = (codes[:, chosen].toarray().astype(np.float64) for codes in (train, test))
        strength, validation_auc = _choose_strength(x, y, penalty, seed)
        logits = _logits(x_test, fit_logistic(x, y, strength, penalty))
        scores.append(
            ProbeScores(
                k,
                auc(wanted, logits),
                float(((logits > 0) == wanted).mean()),
                _weighted_f1(wanted, logits > 0),
                validation_auc,
                tuple(chosen.tolist()),
            )
        )
    return scores


def probe_concepts(
    train_codes: Codes,
    train_labels: Labels,
    test_codes: Codes,
    test_labels: Labels,
    ks: Sequence[int] = KS,
    penalty: Penalty = "l1",
    tokens: int = 1024,
    seed: int = 0,
) -> "pl.DataFrame":
    """Probes for each concept, on equally many tokens with and without it.

    Args:
        train_codes: Codes [tokens, latents], dense or sparse.
        train_labels: Labels of these tokens.
        test_codes: Codes of tokens of other examples.
        test_labels: Their labels.
        ks: Numbers of latents.
        penalty: `l1` or `l2`.
        tokens: The most tokens to train on, and to test on, for one concept.
        seed: Decides which tokens are drawn, and which validate.

    Returns:
        One row per concept and k. Concepts that fewer than 8 training or test tokens have (or lack) are left out.

    Raises:
        UserError: If sizes do not fit.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> kinds = rng.choice(["cat", "dog"], 400)
        >>> codes = rng.exponential(size=(400, 10)) * (kinds == "cat")[:, None]
        >>> labels = evaluation.Labels.of_rows(kinds)
        >>> found = evaluation.probe_concepts(codes[:200], labels.rows(0, 200), codes[200:], labels.rows(200, 400), [1])
        >>> found.select("concept", "k", "auc").rows()
        [('cat', 1, 1.0), ('dog', 1, 1.0)]
    """
    import polars as pl

    train, test = read_codes(train_codes, "train_codes"), read_codes(test_codes, "test_codes")
    for codes, labels, name in ((train, train_labels, "train"), (test, test_labels, "test")):
        if codes.shape[0] != labels.tokens:
            raise UserError(f"{name}: codes of {codes.shape[0]} tokens and labels of {labels.tokens}")
    rows = []
    for concept in (name for name in train_labels.concepts if name in set(test_labels.concepts)):
        drawn = [
            _balanced(labels.select([concept]), tokens, np.random.default_rng([seed, number]))
            for number, labels in enumerate((train_labels, test_labels))
        ]
        if min(len(chosen) for chosen, _ in drawn) < 16:
            continue
        (chosen, truth), (test_chosen, test_truth) = drawn
        found = k_sparse_probe(train[chosen], truth, test[test_chosen], test_truth, ks, penalty, seed)
        rows += [{"concept": concept, **one._asdict(), "latents": list(one.latents)} for one in found]
    return pl.DataFrame(rows)


def rank_latents(codes: Any, truth: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Ranks the latents of codes, a `csr_array` [tokens, latents], by how far the means of two classes differ."""
    sums, fires = codes.sum(axis=0), np.bincount(codes.indices, minlength=codes.shape[1])
    scale = sums / (fires + SMALL) + SMALL
    difference = codes[truth].mean(axis=0) - codes[~truth].mean(axis=0)
    return np.argsort(-np.abs(difference / scale), kind="stable")


RESTARTS = 20
"""Most searches for one minimum."""


def fit_logistic(
    x: NDArray[np.float64], truth: NDArray[np.bool_], strength: float, penalty: Penalty
) -> NDArray[np.float64]:
    """Minimizes strength * sum of log losses + ||w||_1 or ||w||^2 / 2.

    Args:
        x: [tokens, k]
        truth: [tokens]
        strength: C of scikit-learn, the inverse strength of the penalty.
        penalty: `l1` or `l2`.

    Returns:
        The weights and the intercept, [k + 1].
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    k, sign = x.shape[1], np.where(truth, 1.0, -1.0)
    # |w| has no gradient at 0; as the difference of two numbers >= 0, w has a smooth penalty.
    split = penalty == "l1"

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = _weights(parameters, k, split)
        margin = sign * _logits(x, weights)
        slope = -strength * sign * expit(-margin)
        gradient = np.append(x.T @ slope, slope.sum())
        value = strength * float(np.logaddexp(0, -margin).sum())
        if split:
            first, second = gradient[:k] + 1, 1 - gradient[:k]
            return value + float(parameters[: 2 * k].sum()), np.concatenate([first, second, gradient[k:]])
        gradient[:k] += weights[:k]
        return value + float(weights[:k] @ weights[:k]) / 2, gradient

    bounds = [(0, None)] * (2 * k) + [(None, None)] if split else None
    start = np.zeros((2 * k if split else k) + 1)
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-13, "gtol": 1e-7 * max(1.0, strength)}
    value = np.inf
    for _ in range(RESTARTS):
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        if found.fun >= value * (1 - 1e-13):
            break
        value, start = found.fun, found.x  # its memory of old slopes can end the search early; it starts without it
    return _weights(start, k, split)


def auc(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Computes the probability that a token of the class scores above one of the other; equal scores count half."""
    from scipy.stats import rankdata

    positives = int(truth.sum())
    ranks = rankdata(scores)[truth].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def _choose_strength(
    x: NDArray[np.float64], truth: NDArray[np.bool_], penalty: Penalty, seed: int
) -> tuple[float, float]:
    """Chooses C, and gives the validation AUC that it reaches."""
    folds = list(_folds(truth, seed))
    aucs = []
    for strength in INVERSE_PENALTIES:
        of_folds = []
        for held in folds:
            weights = fit_logistic(x[~held], truth[~held], strength, penalty)
            of_folds.append(auc(truth[held], _logits(x[held], weights)))
        aucs.append(float(np.mean(of_folds)))
    # The largest of equally good ones, as sae-probes takes, which tries them from above.
    best = len(aucs) - 1 - int(np.argmax(aucs[::-1]))
    return INVERSE_PENALTIES[best], aucs[best]


def _folds(truth: NDArray[np.bool_], seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yields masks [tokens] of validation tokens, which are of both classes; the tokens come in a random order."""
    tokens = len(truth)
    if tokens <= 12:
        sets = [np.array(pair) for pair in combinations(range(tokens), 2)]
    elif tokens < 128:
        fold = np.empty(tokens, np.intp)
        for number, kind in enumerate((truth, ~truth)):
            order = np.random.default_rng([seed, number]).permutation(int(kind.sum()))
            fold[kind] = order % 6
        sets = [np.flatnonzero(fold == number) for number in range(6)]
    else:
        sets = [np.arange(tokens - min(tokens // 5, 100), tokens)]
    masks = [np.isin(np.arange(tokens), held) for held in sets]
    usable = [held for held in masks if 0 < truth[held].sum() < held.sum() and 0 < truth[~held].sum() < (~held).sum()]
    if not usable:
        raise UserError("probing: too few training tokens of one class to choose the penalty; should be two or more")
    yield from usable


def _balanced(labels: Labels, tokens: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Draws equally many tokens with and without the only concept of these labels; none if fewer than 8 have it."""
    has = np.zeros(labels.tokens, bool)
    has[labels.token] = True
    each = min(tokens // 2, int(has.sum()), int((~has).sum()))
    chosen = np.concatenate([rng.permutation(np.flatnonzero(kind))[:each] for kind in (has, ~has)])
    return chosen, has[chosen]


def _truth(values: ArrayLike, codes: Any, name: str) -> NDArray[np.bool_]:
    truth = np.asarray(values)
    if truth.shape != (codes.shape[0],) or not np.isin(truth, (0, 1)).all():
        raise UserError(f"{name}_truth: should be {codes.shape[0]} truth values, one for each token")
    truth = truth.astype(bool)
    if truth.all() or not truth.any():
        raise UserError(f"{name}_truth: all tokens are of one class; should be two")
    return truth


def _weights(parameters: NDArray[np.float64], k: int, split: bool) -> NDArray[np.float64]:
    return np.append(parameters[:k] - parameters[k : 2 * k], parameters[-1]) if split else parameters


def _logits(x: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return x @ weights[:-1] + weights[-1]


def _weighted_f1(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    total = 0.0
    for kind in (True, False):
        hits = int(((truth == kind) & (predicted == kind)).sum())
        sizes = int((truth == kind).sum() + (predicted == kind).sum())
        total += (truth == kind).mean() * 2 * hits / max(sizes, 1)
    return float(total)
