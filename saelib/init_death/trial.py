"""One random dictionary on a stream of tokens."""

import numpy as np
from numpy.typing import NDArray

from saelib.init_death.kernels import NEVER, record_firsts
from saelib.init_death.product import make_product


class Trial:
    """The first token at which each feature of a dictionary was positive, and at which it was selected."""

    def __init__(self, w_enc: NDArray[np.float32], deltas: NDArray[np.float64], k: int) -> None:
        """`w_enc` [d_in, d_sae]; variant v sees the tokens plus deltas[v] [d_in]."""
        self._product, self._k = make_product(w_enc), k
        # In float64: a shift can be a thousand times the signal, and its sum over d_in must not drown it in rounding.
        self._shifts = (deltas @ w_enc).astype(np.float32)
        self.first_positive = np.full(self._shifts.shape, NEVER)
        """int32 [variants, d_sae]; `NEVER` where it has not happened."""
        self.first_selected = self.first_positive.copy()
        """The same."""

    def add(self, x: NDArray[np.float32], first_token: int) -> None:
        """Tokens `first_token` and following, preprocessed but for the deltas: [tokens, d_in]. In order of tokens."""
        for start, hidden in self._product.blocks(x):
            record_firsts(hidden, self._shifts, self._k, first_token + start, self.first_positive, self.first_selected)
