"""A random dictionary that reads a stream of tokens on a GPU, and finds what the CPU's kernels find."""

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.init_death.kernels import NEVER, SHARED
from saelib.init_death.near import Near
from saelib.init_death.trial import Trial
from saelib.sae.products import float32_products

BLOCK_VALUES = 2**25
"""Pre-activations that are computed at a time."""
ROUNDING = 16 * 2.0**-24
"""Bound on the difference of two pre-activations that were added up in different orders, as a share of the token's
length times the square root of its width: 16 units of rounding, where random ones would differ by about one."""


class DeviceTrial:
    """Finds the first token at which each latent was positive, and at which it was selected, as `Trial` does.

    A GPU adds up products in another order than a CPU, so values within rounding of a bar could be selected on one of
    them alone. Such close calls count for nothing here: their tokens are given to a `Trial` on the CPU, which decides
    them. They are few, since only latents without a first token yet matter. Tokens near a center go there too.
    """

    def __init__(self, w_enc: NDArray[np.float32], deltas: NDArray[np.float64], k: int, device: str) -> None:
        """See `Trial`; `device` is torch's name of the GPU."""
        self._trial, self._k, self._device = Trial(w_enc, deltas, k), k, device
        self._w_enc = torch.from_numpy(w_enc).to(device)
        self._shifts = torch.from_numpy((deltas @ w_enc).astype(np.float32)).to(device)
        self._positive = torch.full_like(self._shifts, int(NEVER), dtype=torch.int32)
        self._selected = self._positive.clone()
        self.decided_on_cpu = 0
        """Tokens that the CPU decided so far."""

    @property
    def first_positive(self) -> NDArray[np.int32]:
        """int32 [variants, d_sae]; `NEVER` for a latent that was not positive."""
        return self._positive.cpu().numpy()

    @property
    def first_selected(self) -> NDArray[np.int32]:
        """int32 [variants, d_sae]; `NEVER` for a latent that was not selected."""
        return self._selected.cpu().numpy()

    def unread(self) -> Self:
        """Trials on a GPU are not split between threads."""
        raise TypeError("a GPU reads all tokens in one thread")

    def join(self, other: Self) -> None:
        """See `unread`."""
        raise TypeError("a GPU reads all tokens in one thread")

    @property
    def is_over(self) -> bool:
        """True once every latent was selected: later tokens change nothing."""
        return not bool((self._selected == int(NEVER)).any())

    def add(self, x: NDArray[np.float32], near: Near, first_token: int) -> None:
        """Reads the tokens from number `first_token` on; see `Trial.add`."""
        with float32_products(tf32=False):
            self._add(x, near, first_token)

    def _add(self, x: NDArray[np.float32], near: Near, first_token: int) -> None:
        rows = max(1, BLOCK_VALUES // self._w_enc.shape[1])
        for start in range(0, len(x), rows):
            stop = min(start + rows, len(x))
            alone = (near.row[:, start:stop] != SHARED).any(axis=0)
            close = torch.from_numpy(alone).to(self._device)
            hidden = torch.from_numpy(x[start:stop]).to(self._device)
            lengths = torch.linalg.vector_norm(hidden, dim=1, keepdim=True)
            bound = ROUNDING * self._w_enc.shape[0] ** 0.5 * lengths
            values = hidden @ self._w_enc
            tokens = torch.arange(first_token + start, first_token + stop, device=self._device, dtype=torch.int32)
            undecided = torch.zeros_like(close)
            for variant, shift in enumerate(self._shifts):
                margin = bound + 4 * 2.0**-24 * shift.abs().max()
                undecided |= self._read(variant, values + shift, margin, tokens, close)
            self._decide(x, near, first_token, start, (undecided | close).nonzero().squeeze(1).cpu().numpy())

    def _read(self, variant: int, values: Tensor, margin: Tensor, tokens: Tensor, close: Tensor) -> Tensor:
        """Notes the certain firsts of one variant; returns which tokens [tokens] have close calls that matter.

        Args:
            variant: Its number.
            values: [tokens, d_sae], its pre-activations.
            margin: [tokens, 1], within which two values may change places.
            tokens: [tokens], their numbers.
            close: [tokens]; tokens that the CPU decides in any case.
        """
        n, k = values.shape[1], self._k
        top = values.topk(min(k + 1, n), dim=1).values
        last, next_one = top[:, k - 1 : k], top[:, k : k + 1] if k < n else top[:, :1] - torch.inf
        selected = (values > margin) & (values > next_one + 2 * margin)
        passed_over = (values < -margin) | (values < last - 2 * margin)
        undecided = close.clone()
        for firsts, certain, unsure in (
            (self._positive[variant], values > margin, values.abs() <= margin),
            (self._selected[variant], selected, ~(selected | passed_over)),
        ):
            never = int(NEVER)
            found = torch.where(certain & ~close[:, None], tokens[:, None], never).amin(0)
            torch.minimum(firsts, found, out=firsts)
            undecided |= (unsure & (tokens[:, None] < firsts)).any(1)
        return undecided

    def _decide(self, x: NDArray[np.float32], near: Near, first: int, start: int, places: NDArray[np.intp]) -> None:
        """Lets the CPU read some tokens, by their places from `start` on, and takes over the firsts it finds there."""
        if not len(places):
            return
        self.decided_on_cpu += len(places)
        places = places + start
        trial = self._trial.unread()
        trial.add(x[places], near.at(places), 0)
        numbers = np.append(places + first, NEVER).astype(np.int32)
        for firsts, found in ((self._positive, trial.first_positive), (self._selected, trial.first_selected)):
            known = numbers[np.where(found == NEVER, len(places), found)]
            torch.minimum(firsts, torch.from_numpy(known).to(self._device), out=firsts)
