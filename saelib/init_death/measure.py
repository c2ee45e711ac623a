"""Measure death at initialization: many random dictionaries in one pass over held-out tokens."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from saelib.activations.rows import Rows
from saelib.errors import UserError
from saelib.init_death.encoder import random_encoder
from saelib.init_death.groups import Group, doubling, finite_block, group_shifts
from saelib.init_death.result import Death, InitDeath, death_from_firsts
from saelib.preprocessing.transform import Preprocessing

if TYPE_CHECKING:
    from saelib.init_death.trial import Trial


def measure(
    rows: Rows,
    preprocessings: Mapping[str, Preprocessing],
    d_sae: int,
    k: int,
    seeds: Sequence[int],
    threads: int = 1,
    device: str = "cpu",
) -> InitDeath:
    """Count the dead latents of untrained TopK SAEs: random unit encoder, no encoder bias, TopK of ReLU.

    A token selects a latent if its pre-activation is > 0 and among the token's k largest; of equal ones, the first in
    order is selected. For one seed, all preprocessings of equal width share one encoder.

    Args:
        rows: held-out activations.
        preprocessings: name -> preprocessing, of the width of `rows`.
        d_sae: latents of each dictionary.
        k: latents selected per token.
        seeds: one random dictionary is drawn for each.
        threads: threads that share the tokens; they do not change the result.
        device: "cuda" multiplies on a GPU, in one thread, with the same result (`saelib.init_death.device_trial`).

    Raises:
        UserError: for impossible settings, and for activations that hold NaN or infinity.
    """
    _check(rows, preprocessings, d_sae, k, seeds)
    from saelib.init_death.trial import Trial  # imported here, because it imports numba, which takes a while

    tokens, d_in = rows.shape
    groups = group_shifts(rows, preprocessings)
    encoders = {(d, seed): random_encoder(d, d_sae, seed) for d in {g.base.d_out for g in groups} for seed in seeds}
    make: Any
    if device == "cpu":
        make = partial(Trial, k=k)
    else:
        from saelib.init_death.device_trial import DeviceTrial

        make, threads = partial(DeviceTrial, k=k, device=device), 1
    trials = [[make(encoders[group.base.d_out, seed], group.deltas) for seed in seeds] for group in groups]
    spans = _spans(rows, threads)
    parts = [trials, *([[trial.unread() for trial in of_group] for of_group in trials] for _ in spans[1:])]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for part in pool.map(lambda part, span: _read(rows, span, groups, part), parts, spans):
            if part is not trials:
                _join(trials, part)
    curve_tokens = doubling(tokens)
    found: dict[str, Death] = {}
    for group, of_group in zip(groups, trials, strict=True):
        found |= _deaths(group, of_group, tokens, curve_tokens)
    in_order = {name: found[name] for name in preprocessings}
    return InitDeath(tokens, d_in, d_sae, k, tuple(seeds), curve_tokens, in_order)


def _spans(rows: Rows, threads: int) -> list[range]:
    """Shares the rows out among the threads: the first rows of the blocks that each of them reads."""
    starts = range(0, rows.shape[0], rows.block_rows)
    edges = [len(starts) * part // threads for part in range(threads + 1)]
    return [starts[first:last] for first, last in pairwise(edges) if last > first]


def _read(rows: Rows, span: range, groups: Sequence[Group], trials: "list[list[Trial]]") -> "list[list[Trial]]":
    """Lets the trials of each group read the blocks of a span, as long as a token can still be a first one."""
    from saelib.init_death.near import find_near

    for start in span:
        block = finite_block(rows, start)
        for group, of_group in zip(groups, trials, strict=True):
            waiting = [trial for trial in of_group if not trial.is_over]
            if waiting:
                x = group.base.apply(block, rows.offset)
                near = find_near(x, group.deltas, group.preprocessings, block, rows.offset)
                for trial in waiting:
                    trial.add(x, near, start)
    return trials


def _join(trials: "list[list[Trial]]", others: "list[list[Trial]]") -> None:
    for of_group, of_other in zip(trials, others, strict=True):
        for trial, other in zip(of_group, of_other, strict=True):
            trial.join(other)


def _deaths(
    group: Group, trials: "Sequence[Trial]", tokens: int, curve_tokens: tuple[int, ...]
) -> Iterator[tuple[str, Death]]:
    first_positive = np.stack([trial.first_positive for trial in trials], axis=1)
    first_selected = np.stack([trial.first_selected for trial in trials], axis=1)
    for name, positive, selected in zip(group.names, first_positive, first_selected, strict=True):
        yield name, death_from_firsts(positive, selected, tokens, curve_tokens)


def _check(rows: Rows, preprocessings: Mapping[str, Preprocessing], d_sae: int, k: int, seeds: Sequence[int]) -> None:
    if rows.shape[0] < 1:
        raise UserError(f"{rows.name}: holds no tokens to measure death on")
    if not 1 <= k <= d_sae:
        raise UserError(f"{rows.name}: k = {k}, d_sae = {d_sae}: k must lie between 1 and d_sae")
    if not seeds or not preprocessings:
        raise UserError(f"{rows.name}: measuring init death needs at least one seed and one preprocessing")
