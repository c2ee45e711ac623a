"""Gradients of AuxK (Gao et al. 2024) by dense products over the dead latents alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saelib.config.training import AuxK
from saelib.sae.gpu.launch import power_of_two


@dataclass(frozen=True)
class DeadGradients:
    """Gradients that the dead among some latents receive in addition: those of an SAE, or of several in a row."""

    places: Tensor
    """int32 [latents]; the place of each latent in the next two, or -1 if it gets nothing."""
    W_enc: Tensor
    """[places, d_in]"""
    W_dec: Tensor
    """[places, d_in]"""
    b_enc: Tensor
    """[latents]; 0 for latents that get nothing."""


@dataclass
class Room:
    """An upper bound of the latents of an SAE that can be dead within the next examples.

    The host has to know it, to start products of the right size. It waits for the device to count, but seldom: a
    latent can only die within some examples if it has not fired for long already.
    """

    size: int = 0
    """A power of two, or d_sae; 0 if no latent can be dead."""
    until: int = 0
    """Number of examples seen up to which it holds."""

    def renew(self, tokens_since_fired: Tensor, dead_after: int, examples: int, tokens: int) -> bool:
        """Count the latents [d_sae] if it does not hold after the next `tokens` examples; tells if the size changed."""
        if examples + tokens <= self.until:
            return False
        ahead = max(tokens, dead_after // 8)
        count = int((tokens_since_fired >= dead_after - ahead).sum())
        before, self.until = self.size, examples + ahead
        self.size = min(power_of_two(count), len(tokens_since_fired)) if count else 0
        return self.size != before


def dead_gradients(
    hidden: Tensor, residual: Tensor, dead: Tensor, room: int, W_dec: Tensor, centered: Tensor, auxk: AuxK
) -> DeadGradients:
    """Gradients of the error of an SAE's dead latents' fit to what the living ones left over; see `autograd.losses`.

    Args:
        hidden: Pre-activations [tokens, d_sae].
        residual: x - x_hat, [tokens, d_in].
        dead: Boolean [d_sae]; at most `room` of them.
        room: Places for the dead latents, the last of which may stay empty.
        W_dec: [d_sae, d_in]
        centered: x - b_dec, [tokens, d_in].
        auxk: The variant's options.
    """
    n, d = W_dec.shape
    latents, places = _listed(dead, room)
    known = latents.clamp(max=n - 1)
    pre = hidden.index_select(1, known).masked_fill(latents == n, 0)
    k = auxk.k or d // 2
    bar = pre.topk(k + 1, dim=1, sorted=False).values.amin(1, keepdim=True).clamp(min=0) if room > k else 0
    codes = torch.where(pre > bar, pre, 0)
    rows = W_dec.index_select(0, known)
    spread = (residual - residual.mean(0)).square().sum()
    weight = 2 * auxk.auxk_coefficient * torch.where(spread > 0, spread.reciprocal(), 0)
    g = (torch.mm(codes, rows) - residual) * weight
    d_codes = torch.where(codes > 0, torch.mm(g, rows.T), 0)
    b_enc = d_codes.new_zeros(n + 1).scatter_(0, latents, d_codes.sum(0))[:n]  # empty places to n
    return DeadGradients(places, torch.mm(d_codes.T, centered), torch.mm(codes.T, g), b_enc)


def joined(parts: Sequence[DeadGradients | None], d_sae: int) -> DeadGradients | None:
    """The gradients of several SAEs in a row; None stands for an SAE that has none."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    places, b_enc, first = [], [], 0
    for part in parts:
        if part is None:
            places.append(found[0].places.new_full((d_sae,), -1))
            b_enc.append(found[0].b_enc.new_zeros(d_sae))
        else:
            places.append(torch.where(part.places < 0, -1, part.places + first))
            b_enc.append(part.b_enc)
            first += len(part.W_enc)
    W_enc, W_dec = (torch.cat([getattr(part, name) for part in found]) for name in ("W_enc", "W_dec"))
    return DeadGradients(torch.cat(places), W_enc, W_dec, torch.cat(b_enc))


def _listed(dead: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """The dead latents in order, int64 [room], d_sae in empty places; and each latent's place, -1 if it is alive."""
    n = len(dead)
    place = dead.cumsum(0) - 1
    latents = torch.full((room + 1,), n, device=dead.device)
    latents.scatter_(0, torch.where(dead, place, room), torch.arange(n, device=dead.device))
    return latents[:room], torch.where(dead, place, -1).int()  # the living went into a place that is cut off
