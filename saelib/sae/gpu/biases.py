"""The gradients of the encoder's biases, and the update of both biases."""

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from saelib.config.training import Adam
from saelib.sae.gpu.by_latent import ByLatent
from saelib.sae.gpu.launch import launch
from saelib.sae.gpu.rates import Rates
from saelib.sae.gpu.stack import Stack

TOGETHER = 128
"""Entries that a program reads at a time."""


@triton.jit
def biases_kernel(order, starts, d_codes, d_b_enc, E: tl.constexpr):
    """Sums the gradients of the codes of one latent, always in the same order."""
    j = tl.program_id(0)
    total = tl.zeros((E,), tl.float32)
    first = tl.load(starts + j)
    stop = tl.load(starts + j + 1)
    while first < stop:
        at = first + tl.arange(0, E)
        e = tl.load(order + at, mask=at < stop, other=0)
        total += tl.load(d_codes + e, mask=at < stop, other=0.0)
        first += E
    tl.store(d_b_enc + j, tl.sum(total, 0))


def bias_gradients(sorted_entries: ByLatent, d_codes: Tensor) -> Tensor:
    """Sum of `d_codes` [entries] over the entries of each latent: [latents]."""
    latents = len(sorted_entries.starts) - 1
    d_b_enc = torch.empty(latents, dtype=torch.float32, device=d_codes.device)
    order, starts = sorted_entries.order, sorted_entries.starts
    launch(biases_kernel, (latents,), order, starts, d_codes, d_b_enc, E=TOGETHER, num_warps=1)
    return d_b_enc


def move_biases(
    stack: Stack,
    name: Literal["b_enc", "b_dec"],
    gradient: Tensor,
    rates: Rates,
    optimizer: Adam,
    moves: Tensor | None = None,
) -> None:
    """One step of Adam on the biases `name` of all SAEs, by `gradient` of their shape; only where `moves`, if given."""
    p, m, v = (getattr(own, name) for own in (stack.parameters, stack.first_moments, stack.second_moments))
    rate, correction = rates.now()
    fresh1, fresh2 = torch.full_like(p, 1 - optimizer.beta1), torch.full_like(p, 1 - optimizer.beta2)
    if moves is not None:
        fresh1, fresh2 = fresh1 * moves, fresh2 * moves
    m.lerp_(gradient, fresh1)
    v.lerp_(gradient.square(), fresh2)
    step = rate * m / (v.sqrt() * correction + optimizer.epsilon)
    p.sub_(step if moves is None else step * moves)
