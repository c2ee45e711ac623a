"""Measure death at initialization: many random dictionaries in one pass over held-out tokens."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from saelib.activations.rows import Rows
from saelib.errors import UserError
from saelib.init_death.encoder import random_encoder
from saelib.init_death.result import Death, InitDeath, death_from_firsts
from saelib.preprocessing.transform import Preprocessing

if TYPE_CHECKING:
    from saelib.init_death.near import Near
    from saelib.init_death.trial import Trial


def measure(
    rows: Rows, preprocessings: Mapping[str, Preprocessing], d_sae: int, k: int, seeds: Sequence[int], threads: int = 1
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
        threads: threads that share the dictionaries and groups of preprocessings; they do not change the result.

    Raises:
        UserError: for impossible settings, and for activations that hold NaN or infinity.
    """
    _check(rows, preprocessings, d_sae, k, seeds)
    from saelib.init_death.trial import Trial  # its import compiles the kernels

    tokens, d_in = rows.shape
    groups = _group(rows, preprocessings)
    encoders = {(d, seed): random_encoder(d, d_sae, seed) for d in {g.base.d_out for g in groups} for seed in seeds}
    trials = [[Trial(encoders[group.base.d_out, seed], group.deltas, k) for seed in seeds] for group in groups]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for start in range(0, tokens, rows.block_rows):
            block = finite_block(rows, start)
            work = []
            for group, of_group in zip(groups, trials, strict=True):
                x = group.base.apply(block, rows.offset)
                near = group.near(x, block, rows.offset)
                work += [pool.submit(trial.add, x, near, start) for trial in of_group]
            for future in work:
                future.result()
    curve_tokens = (*(2**i for i in range(tokens.bit_length()) if 2**i < tokens), tokens)
    found: dict[str, Death] = {}
    for group, of_group in zip(groups, trials, strict=True):
        found |= _deaths(group, of_group, tokens, curve_tokens)
    in_order = {name: found[name] for name in preprocessings}
    return InitDeath(tokens, d_in, d_sae, k, tuple(seeds), curve_tokens, in_order)


@dataclass(frozen=True)
class _Group:
    """Preprocessings whose outputs differ only by a constant vector: one matrix product serves them all."""

    names: tuple[str, ...]
    base: Preprocessing
    deltas: NDArray[np.float64]
    """[len(names), d_out]; the output of names[v] is that of `base` plus deltas[v]."""
    preprocessings: tuple[Preprocessing, ...]
    """One for each name."""

    def near(self, x: NDArray[np.float32], block: NDArray[np.floating], offset: NDArray[np.float32] | None) -> "Near":
        """Find the tokens of a block for which `x` plus a delta would be imprecise."""
        from saelib.init_death.near import find_near, nothing_near

        if not self.deltas.any():
            return nothing_near(len(self.names), x)
        return find_near(x, self.deltas, self.preprocessings, block, offset)


def _group(rows: Rows, preprocessings: Mapping[str, Preprocessing]) -> list[_Group]:
    """Group preprocessings: all that only subtract a center share a base near the mean; each other stands alone."""
    shifted = [name for name, p in preprocessings.items() if p.scale is None and p.token_norm == "none"]
    groups = [
        _Group((name,), preprocess, np.zeros((1, preprocess.d_out)), (preprocess,))
        for name, preprocess in preprocessings.items()
        if name not in shifted
    ]
    if shifted:
        center = finite_block(rows, 0).mean(axis=0, dtype=np.float64) + (0 if rows.offset is None else rows.offset)
        deltas = np.stack([center - preprocessings[name].center for name in shifted])
        of_shifted = tuple(preprocessings[name] for name in shifted)
        groups.insert(0, _Group(tuple(shifted), Preprocessing(center), deltas, of_shifted))
    return groups


def finite_block(rows: Rows, start: int) -> NDArray[np.floating]:
    """Reads the block that starts at this row. Raises `UserError` at its first row that is not finite."""
    block = rows.block(start, min(start + rows.block_rows, rows.shape[0]))
    if not np.isfinite(block).all():
        row = start + int(np.argmin(np.isfinite(block).all(axis=1)))
        raise UserError(f"{rows.name}: row {row} holds NaN or infinity; a forward pass in float16 can overflow")
    return block


def _deaths(
    group: _Group, trials: "Sequence[Trial]", tokens: int, curve_tokens: tuple[int, ...]
) -> Iterator[tuple[str, Death]]:
    first_positive = np.stack([trial.first_positive for trial in trials], axis=1)
    first_selected = np.stack([trial.first_selected for trial in trials], axis=1)
    for name, positive, selected in zip(group.names, first_positive, first_selected, strict=True):
        yield name, death_from_firsts(positive, selected, tokens, curve_tokens)


def _check(rows: Rows, preprocessings: Mapping[str, Preprocessing], d_sae: int, k: int, seeds: Sequence[int]) -> None:
    tokens, d_in = rows.shape
    if tokens < 1:
        raise UserError(f"{rows.name}: holds no tokens to measure death on")
    if not 1 <= k <= d_sae:
        raise UserError(f"{rows.name}: k = {k}, d_sae = {d_sae}: k must lie between 1 and d_sae")
    if not seeds or not preprocessings:
        raise UserError(f"{rows.name}: measuring init death needs at least one seed and one preprocessing")
    for name, preprocess in preprocessings.items():
        if preprocess.d_in != d_in:
            raise UserError(
                f"{rows.name}: has {d_in} dimensions, but the preprocessing '{name}' was fitted on {preprocess.d_in}"
            )
