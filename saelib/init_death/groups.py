"""Preprocessings that differ by a constant vector share one matrix product."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import Rows
from saelib.errors import UserError
from saelib.preprocessing.transform import Preprocessing

if TYPE_CHECKING:
    from saelib.init_death.near import Near


@dataclass(frozen=True)
class Group:
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


def group_shifts(rows: Rows, preprocessings: Mapping[str, Preprocessing]) -> list[Group]:
    """Group preprocessings: all that only subtract a center share a base near the mean; each other stands alone."""
    shifted = [name for name, p in preprocessings.items() if p.scale is None and p.token_norm == "none"]
    groups = [
        Group((name,), preprocess, np.zeros((1, preprocess.d_out)), (preprocess,))
        for name, preprocess in preprocessings.items()
        if name not in shifted
    ]
    if shifted:
        center = finite_block(rows, 0).mean(axis=0, dtype=np.float64) + (0 if rows.offset is None else rows.offset)
        deltas = np.stack([center - preprocessings[name].center for name in shifted])
        of_shifted = tuple(preprocessings[name] for name in shifted)
        groups.insert(0, Group(tuple(shifted), Preprocessing(center), deltas, of_shifted))
    return groups


def finite_block(rows: Rows, start: int) -> NDArray[np.floating]:
    """Reads the block that starts at this row. Raises `UserError` at its first row that is not finite."""
    block = rows.block(start, min(start + rows.block_rows, rows.shape[0]))
    if not np.isfinite(block).all():
        row = start + int(np.argmin(np.isfinite(block).all(axis=1)))
        raise UserError(f"{rows.name}: row {row} holds NaN or infinity; a forward pass in float16 can overflow")
    return block
