"""Compares the SAEs of a layer: which latents they share, and whether a kind is better than a reference."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelib.errors import UserError
from saelib.evaluation.differences import score_difference
from saelib.evaluation.directions import best_match, match, unit_rows
from saelib.evaluation.judged import Judged
from saelib.evaluation.layer_result import Comparison, Pair


class Twins(NamedTuple):
    """The most similar living latent of the other trained SAEs of the layer, for each latent of an SAE."""

    sae: list[str | None]
    latent: list[int | None]
    cosine: list[float | None]


def find_twins(judged: Judged, others: Sequence[Judged], alive: Mapping[str, NDArray[np.bool_]]) -> Twins:
    """Finds the twin of each latent by the cosine of decoder directions; nothing without other SAEs.

    Args:
        judged: The SAE.
        others: The other trained SAEs.
        alive: Name of an SAE -> [d_sae], whether a latent fired.
    """
    own = unit_rows(judged.directions)
    best, twin = np.full(len(own), -np.inf), np.zeros(len(own), np.int64)
    whose = np.full(len(own), -1)
    for number, other in enumerate(others):
        living = np.flatnonzero(alive[other.name])
        if not len(living):
            continue
        closest, cosine = best_match(own, unit_rows(other.directions[living]))
        better = cosine > best
        best[better], twin[better], whose[better] = cosine[better], living[closest[better]], number
    found = whose >= 0
    return Twins(
        [others[index].name if index >= 0 else None for index in whose],
        [int(latent) if is_found else None for latent, is_found in zip(twin, found, strict=True)],
        [float(cosine) if is_found else None for cosine, is_found in zip(best, found, strict=True)],
    )


def pairs_of(saes: Sequence[Judged], alive: Mapping[str, NDArray[np.bool_]]) -> list[Pair]:
    """Matches the living latents of every two trained SAEs; SAEs without any are left out."""
    living = {one.name: one.directions[alive[one.name]] for one in saes}
    found = []
    for first, second in combinations([one for one in saes if len(living[one.name])], 2):
        matched = match(living[first.name], living[second.name])
        mcc = float(matched.cosines.mean(dtype=np.float64))
        found.append(Pair(first.name, second.name, first.kind == second.kind, mcc, matched.shared()))
    return found


def comparisons_of(
    scores: Mapping[str, Mapping[str, ArrayLike]], saes: Sequence[Judged], references: Sequence[str]
) -> list[Comparison]:
    """Compares each kind of SAE with each reference.

    Args:
        scores: Measure -> name of an SAE -> its scores of the same items, [items].
        saes: The SAEs.
        references: The kinds that the others are compared with. Two of them are compared once.
    """
    kinds: dict[str, list[str]] = {}
    for sae in saes:
        kinds.setdefault(sae.kind, []).append(sae.name)
    found = []
    for measure, (place, reference), (kind, names) in product(scores, enumerate(references), kinds.items()):
        if kind in references[: place + 1]:
            continue
        by_sae = scores[measure]
        rows = [[by_sae[name] for name in group if name in by_sae] for group in (names, kinds[reference])]
        if not all(rows):
            continue
        try:
            one = score_difference(np.array(rows[0]), np.array(rows[1]))
        except UserError:  # too few items and seeds
            continue
        interval = (one.mean, one.low, one.high, one.smallest_reliable)
        found.append(Comparison(measure, kind, reference, *interval, one.items, *one.seeds))
    return found
