"""The order in which training reads stored rows: the same wherever the rows lie."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW_BYTES = 2**28
"""Rows that are mixed with each other, in bytes of float32."""


class WindowOrder:
    """Blocks in a random order, a window of them at a time, whose rows are in a random order.

    It depends on the seed, the epoch and the shapes only. Within an epoch no row comes twice.
    """

    def __init__(self, tokens: int, block_rows: int, width: int, seed: int, window_bytes: int = WINDOW_BYTES) -> None:
        """`width`: numbers of a row as the SAE reads it. A window has `window_bytes`, or one block if that is more."""
        self.seed = seed
        self.edges = np.append(np.arange(0, tokens, block_rows), tokens)
        self._window_blocks = max(1, window_bytes // (block_rows * width * 4))

    def windows(self, epoch: int, skip: int) -> Iterator[tuple[tuple[int, ...], NDArray[np.int64]]]:
        """The epoch's windows without its first `skip` rows: which blocks, and the order of their rows.

        Rows of a window are numbered from 0, block after block.
        """
        blocks = np.random.default_rng((self.seed, epoch)).permutation(len(self.edges) - 1)
        for number, at in enumerate(range(0, len(blocks), self._window_blocks), 1):
            window = np.sort(blocks[at : at + self._window_blocks])
            rows = self.count(window)
            if skip < rows:
                order = np.random.default_rng((self.seed, epoch, number)).permutation(rows)
                yield tuple(window.tolist()), order[skip:]
            skip = max(0, skip - rows)

    def bounds(self, blocks: Sequence[int]) -> list[tuple[int, int]]:
        """First row of each block, and the row after its last."""
        return [(int(self.edges[block]), int(self.edges[block + 1])) for block in blocks]

    def count(self, blocks: NDArray[np.int64] | Sequence[int]) -> int:
        """Rows in some blocks."""
        return int(np.diff(self.edges)[list(blocks)].sum())
