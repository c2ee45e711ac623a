"""The codes of a batch as a flat list of entries, for all SAEs together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saelib.sae.gpu.select import NOTHING, select


@dataclass(frozen=True)
class Entries:
    """The latents that tokens selected. A row is a token as one SAE reads it: row = SAE * tokens + token."""

    codes: Tensor
    """float32 [entries]; above 0, or 0 if the entry is empty because too few latents were positive."""
    latents: Tensor
    """int32 [entries]; SAE * d_sae + latent, or `NOTHING` if the entry is empty."""
    rows: Tensor
    """int32 [entries]; the row of each."""
    starts: Tensor
    """int32 [rows + 1]; a row's entries, with latents in ascending order, lie from its start to the next row's."""


@dataclass(frozen=True)
class Selected:
    """The result of a selection."""

    entries: Entries
    fired: Tensor
    """Boolean [saes, d_sae]; latents with a code above 0 for some token."""
    positive: Tensor
    """Boolean [saes, d_sae]; latents with a pre-activation above 0 for some token."""


def topk_entries(hidden: Tensor, k: int) -> Selected:
    """The k largest positive pre-activations of each SAE and token; `hidden` is [saes, tokens, d_sae]."""
    saes, tokens, n = hidden.shape
    flags = torch.zeros(2, saes * n, dtype=torch.int8, device=hidden.device)
    codes, latents = select(hidden, k, positive=flags[0], fired=flags[1])
    rows = torch.arange(saes * tokens, dtype=torch.int32, device=hidden.device)[:, None].expand(-1, k).flatten()
    starts = torch.arange(0, saes * tokens * k + 1, k, dtype=torch.int32, device=hidden.device)
    positive, fired = flags.view(2, saes, n).bool()
    return Selected(Entries(codes.flatten(), latents.flatten(), rows, starts), fired, positive)


def in_a_row(first: Selected, second: Selected) -> Selected:
    """The selections of some SAEs, then those of others, as one."""
    one, other = first.entries, second.entries
    latents = torch.where(other.latents == NOTHING.value, other.latents, other.latents + first.fired.numel())
    entries = Entries(
        codes=torch.cat([one.codes, other.codes]),
        latents=torch.cat([one.latents, latents]),
        rows=torch.cat([one.rows, other.rows + (len(one.starts) - 1)]),
        starts=torch.cat([one.starts[:-1], other.starts + len(one.codes)]),
    )
    return Selected(entries, torch.cat([first.fired, second.fired]), torch.cat([first.positive, second.positive]))
