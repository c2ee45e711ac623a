"""Gradients of AuxK (Gao et al. 2024) by dense products over the dead latents alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saelib.config.training import AuxK
from saelib.sae.gpu.launch import power_of_two


@dataclass(frozen=True)
class DeadGradients:
    """Gradients that the dead latents receive in addition; `room` places of each SAE, the last ones empty."""

    places: Tensor
    """int32 [saes, d_sae]; SAE * room + place of each latent, or -1 if it is not dead."""
    W_enc: Tensor
    """[saes * room, d_in]"""
    W_dec: Tensor
    """[saes * room, d_in]"""
    b_enc: Tensor
    """[saes, d_sae]; 0 for latents that are not dead."""


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
        """Count if it does not hold after the next `tokens` examples; returns whether the size has changed."""
        if examples + tokens <= self.until:
            return False
        ahead = max(tokens, dead_after // 8)
        count = int((tokens_since_fired >= dead_after - ahead).sum(1).max())
        before, self.until = self.size, examples + ahead
        self.size = min(power_of_two(count), tokens_since_fired.shape[1]) if count else 0
        return self.size != before


def dead_gradients(
    hidden: Tensor, residual: Tensor, dead: Tensor, room: int, parameters: tuple[Tensor, Tensor], x: Tensor, auxk: AuxK
) -> DeadGradients:
    """Gradients of the error of the dead latents' fit to what the living ones left over; see `autograd.losses`.

    Args:
        hidden: Pre-activations [tokens, saes, d_sae].
        residual: x - x_hat, [tokens, saes, d_in].
        dead: Boolean [saes, d_sae]; at most `room` of an SAE.
        room: Places for the dead latents of an SAE.
        parameters: W_dec [saes, d_sae, d_in], and b_dec [saes, d_in] relative to the origin of `x`.
        x: [tokens, d_in]
        auxk: The variant's options.
    """
    W_dec, b_dec = parameters
    tokens, saes, d = residual.shape
    latents, places = _listed(dead, room)
    n = dead.shape[1]
    known = latents.clamp(max=n - 1)
    pre = hidden.gather(2, known.expand(tokens, saes, room)).masked_fill(latents == n, 0)
    k = auxk.k or d // 2
    bar = pre.topk(k + 1, dim=2, sorted=False).values.amin(2, keepdim=True).clamp(min=0) if room > k else 0
    codes = torch.where(pre > bar, pre, 0).transpose(0, 1)  # [saes, tokens, room]
    rows = W_dec.gather(1, known[:, :, None].expand(saes, room, d))
    spread = (residual - residual.mean(0)).square().sum((0, 2))
    weight = 2 * auxk.auxk_coefficient * torch.where(spread > 0, spread.reciprocal(), 0)
    g = (torch.bmm(codes, rows) - residual.transpose(0, 1)) * weight[:, None, None]
    d_codes = torch.where(codes > 0, torch.bmm(g, rows.transpose(1, 2)), 0)
    d_b_enc = d_codes.sum(1)
    d_W_enc = torch.mm(d_codes.transpose(1, 2).reshape(saes * room, tokens), x).view(saes, room, d)
    d_W_enc -= d_b_enc[:, :, None] * b_dec[:, None]
    all_b_enc = d_b_enc.new_zeros(saes, n + 1).scatter_(1, latents, d_b_enc)[:, :n]  # empty places to n
    d_W_dec = torch.bmm(codes.transpose(1, 2), g)
    return DeadGradients(places, d_W_enc.flatten(0, 1), d_W_dec.flatten(0, 1), all_b_enc.contiguous())


def _listed(dead: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """The dead latents of each SAE in order, int64 [saes, room], d_sae in empty places; and `DeadGradients.places`."""
    saes, n = dead.shape
    numbers = torch.arange(n, device=dead.device).expand(saes, n)
    place = dead.cumsum(1) - 1
    latents = torch.full((saes, room + 1), n, device=dead.device)
    latents.scatter_(1, torch.where(dead, place, room), numbers)  # the others into a place that is cut off
    first = torch.arange(saes, device=dead.device)[:, None] * room
    return latents[:, :room].contiguous(), torch.where(dead, first + place, -1).int()
