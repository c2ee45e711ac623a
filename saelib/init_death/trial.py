"""One random dictionary that reads a stream of tokens."""

from copy import copy
from typing import Self

import numpy as np
from numpy.typing import NDArray

from saelib.init_death.kernels import NEVER, Own, record_firsts
from saelib.init_death.near import Near
from saelib.init_death.product import make_product


class Trial:
    """Finds the first token at which each latent of a dictionary was positive, and at which it was selected."""

    def __init__(self, w_enc: NDArray[np.float32], deltas: NDArray[np.float64], k: int) -> None:
        """Takes `w_enc` [d_in, d_sae]; variant v sees the tokens plus deltas[v] [d_in]."""
        self._product, self._k = make_product(w_enc), k
        # In float64: a shift can be a thousand times the signal, and its sum over d_in must not drown it in rounding.
        self._shifts = (deltas @ w_enc).astype(np.float32)
        self.first_positive = np.full(self._shifts.shape, NEVER)
        """int32 [variants, d_sae]; `NEVER` for a latent that was not positive."""
        self.first_selected = self.first_positive.copy()
        """int32 [variants, d_sae]; `NEVER` for a latent that was not selected."""

    def unread(self) -> Self:
        """Makes a trial of the same dictionary that has read nothing yet; the two may read at the same time."""
        other = copy(self)
        other.first_positive, other.first_selected = np.full((2, *self._shifts.shape), NEVER)
        return other

    def join(self, other: Self) -> None:
        """Takes over the firsts that another trial of the same dictionary found on other tokens."""
        np.minimum(self.first_positive, other.first_positive, out=self.first_positive)
        np.minimum(self.first_selected, other.first_selected, out=self.first_selected)

    @property
    def is_over(self) -> bool:
        """True once every latent was selected: later tokens change nothing."""
        return not (self.first_selected == NEVER).any()

    def add(self, x: NDArray[np.float32], near: Near, first_token: int) -> None:
        """Reads the tokens from number `first_token` on; calls must come in the order of the tokens.

        Args:
            x: [tokens, d_in], preprocessed except for the deltas.
            near: the tokens for which `x` plus a delta would be imprecise.
            first_token: number of the first of these tokens.
        """
        for start, hidden in self._product.blocks(x):
            if self.is_over:
                return
            values, row = near.part(start, start + len(hidden))
            own, number = Own(self._pre_activations(values), row), first_token + start
            record_firsts(hidden, self._shifts, own, self._k, number, self.first_positive, self.first_selected)

    def _pre_activations(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = [hidden.copy() for _, hidden in self._product.blocks(values)]
        return np.concatenate(parts) if parts else np.empty((0, self._shifts.shape[1]), np.float32)
