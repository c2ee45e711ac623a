"""The gradients of the encoder's biases, and the update of both biases."""

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from saelib.config.training import Adam
from saelib.sae.gpu.adam import adam
from saelib.sae.gpu.by_latent import ByLatent
from saelib.sae.gpu.launch import launch
from saelib.sae.gpu.rates import Rates
from saelib.sae.gpu.stack import Stack

TOGETHER = 128
"""Entries that a program reads at a time."""
PIECE = 512
"""Biases that a program moves."""


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


@triton.jit
def move_kernel(
    w, m, v, gradient, step, table, beta1, fresh1, beta2, fresh2, epsilon, n, saes,
    N: tl.constexpr, SPARSE: tl.constexpr,
):  # fmt: skip
    """Moves a piece of the biases [saes, n]: piece `program_id(1)` of SAE `program_id(0)`."""
    sae = tl.program_id(0)
    place = tl.program_id(1) * N + tl.arange(0, N)
    inside = place < n
    at = sae * n + place
    numbers = table + (tl.load(step) * saes + sae) * 2
    value = tl.load(w + at, mask=inside, other=0.0)
    new = tl.load(gradient + at, mask=inside, other=0.0)
    rate = tl.load(numbers)
    correction = tl.load(numbers + 1)
    value = adam(
        value, new, m + at, v + at, inside, rate, correction, beta1, fresh1, beta2, fresh2, epsilon, SPARSE, False
    )
    tl.store(w + at, value, mask=inside)


def move_biases(
    stack: Stack, name: Literal["b_enc", "b_dec"], gradient: Tensor, rates: Rates, optimizer: Adam, sparse: bool = False
) -> None:
    """One step of Adam on the biases `name` of all SAEs, by `gradient` of their shape.

    If `sparse`, biases without a gradient do not move.
    """
    w, m, v = (getattr(own, name) for own in (stack.parameters, stack.first_moments, stack.second_moments))
    saes, n = w.shape
    one, two = optimizer.beta1, optimizer.beta2
    launch(
        move_kernel, (saes, -(-n // PIECE)), w, m, v, gradient, rates.step, rates.table,
        one, 1 - one, two, 1 - two, optimizer.epsilon, n, saes, N=PIECE, SPARSE=sparse, num_warps=4,
    )  # fmt: skip
