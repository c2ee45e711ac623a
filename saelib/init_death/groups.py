"""The common parts of counting and probing: preprocessings that share a matrix product, blocks, points of curves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import Rows
from saelib.errors import UserError
from saelib.preprocessing.transform import Preprocessing


@dataclass(frozen=True)
class Group:
    """Preprocessings whose outputs differ only by a constant vector: one matrix product serves them all."""

    names: tuple[str, ...]
    base: Preprocessing
    deltas: NDArray[np.float64]
    """[len(names), d_out]; the output of names[v] is that of `base` plus deltas[v]."""
    preprocessings: tuple[Preprocessing, ...]
    """One for each name."""
    uncentered: Preprocessing
    """The base without its center, if the members differ by their centers alone; else the base."""


def group_shifts(rows: Rows, preprocessings: Mapping[str, Preprocessing]) -> list[Group]:
    """Group preprocessings: all that only subtract a center share a base near the mean; each other stands alone.

    Raises:
        UserError: if one was fitted on rows of another width, or the first block is not finite.
    """
    for name, preprocess in preprocessings.items():
        if preprocess.d_in != rows.shape[1]:
            raise UserError(
                f"{rows.name}: has {rows.shape[1]} dimensions, but the preprocessing '{name}' was fitted on "
                f"{preprocess.d_in}"
            )
    shifted = [name for name, p in preprocessings.items() if p.scale is None and p.token_norm == "none"]
    groups = [
        Group((name,), preprocess, np.zeros((1, preprocess.d_out)), (preprocess,), preprocess)
        for name, preprocess in preprocessings.items()
        if name not in shifted
    ]
    if shifted:
        center = finite_block(rows, 0).mean(axis=0, dtype=np.float64) + (0 if rows.offset is None else rows.offset)
        deltas = np.stack([center - preprocessings[name].center for name in shifted])
        of_shifted = tuple(preprocessings[name] for name in shifted)
        uncentered = Preprocessing(np.zeros_like(center))
        groups.insert(0, Group(tuple(shifted), Preprocessing(center), deltas, of_shifted, uncentered))
    return groups


def doubling(tokens: int) -> tuple[int, ...]:
    """Numbers of tokens after which death is kept: 1, 2, 4, … and `tokens`."""
    return (*(2**i for i in range(tokens.bit_length()) if 2**i < tokens), tokens)


def finite_block(rows: Rows, start: int) -> NDArray[np.floating]:
    """Reads the block that starts at this row. Raises `UserError` at its first row that is not finite."""
    block = rows.block(start, min(start + rows.block_rows, rows.shape[0]))
    if not np.isfinite(block).all():
        row = start + int(np.argmin(np.isfinite(block).all(axis=1)))
        raise UserError(f"{rows.name}: row {row} holds NaN or infinity; a forward pass in float16 can overflow")
    return block
