"""The entries of a batch in the order of latents."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saelib.sae.gpu.entries import Entries


@dataclass(frozen=True)
class ByLatent:
    """An order of the entries in which those of a latent are neighbors, token after token."""

    order: Tensor
    """int32 [entries]; numbers of the entries. Empty ones come last."""
    starts: Tensor
    """int32 [latents + 1]; a latent's entries lie in `order` from its start to the next one's."""


def by_latent(entries: Entries, latents: Tensor) -> ByLatent:
    """Sort by latent; `latents` is int32 [latents + 1], 0, 1, … up to the number of latents of all SAEs."""
    keys, order = torch.sort(entries.latents, stable=True)
    return ByLatent(order.int(), torch.searchsorted(keys, latents, out_int32=True))
