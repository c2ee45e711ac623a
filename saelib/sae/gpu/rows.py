"""The update of each latent's two rows: gradients, Adam and unit norm, without a gradient in memory."""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from saelib.config.training import Adam
from saelib.sae.autograd.trainer import UNIT
from saelib.sae.gpu.adam import adam
from saelib.sae.gpu.auxk import DeadGradients
from saelib.sae.gpu.by_latent import ByLatent
from saelib.sae.gpu.entries import Entries
from saelib.sae.gpu.launch import ROWS, launch, power_of_two, warps
from saelib.sae.gpu.rates import Rates
from saelib.sae.gpu.stack import Stack

ROUNDING = UNIT * 2.0**-23
"""Distance of a norm from 1 that counts as rounding."""


@triton.jit
def rows_kernel(
    x, b_dec, g, codes, d_codes, rows, order, starts, W_enc, W_dec, m_enc, v_enc, m_dec, v_dec, squares,
    places, more_enc, more_dec, step, table, beta1, fresh1, beta2, fresh2, epsilon, rounding, n, d, saes, tokens,
    D: tl.constexpr, E: tl.constexpr, PROJECT: tl.constexpr, SPARSE: tl.constexpr, MORE: tl.constexpr,
):  # fmt: skip
    """One latent: sums the gradients of its two rows over its entries, then moves both, in place.

    With MORE, latents that have a place get the gradients there in addition.
    """
    j = tl.program_id(0)
    sae = j // n
    c = tl.arange(0, D)
    inside = c < d
    center = tl.load(b_dec + sae * d + c, mask=inside, other=0.0)
    d_enc = tl.zeros((D,), tl.float32)
    d_dec = tl.zeros((D,), tl.float32)
    first = tl.load(starts + j)
    stop = tl.load(starts + j + 1)
    while first < stop:
        at = first + tl.arange(0, E)
        here = at < stop
        e = tl.load(order + at, mask=here, other=0)
        row = tl.load(rows + e, mask=here, other=0)
        code = tl.load(codes + e, mask=here, other=0.0)
        d_code = tl.load(d_codes + e, mask=here, other=0.0)
        wanted = here[:, None] & inside[None, :]
        token = tl.load(x + (row % tokens).to(tl.int64)[:, None] * d + c[None, :], mask=wanted, other=0.0)
        d_enc += tl.sum(d_code[:, None] * (token - center[None, :]), 0)
        error = tl.load(g + row.to(tl.int64)[:, None] * d + c[None, :], mask=wanted, other=0.0)
        d_dec += tl.sum(code[:, None] * error, 0)
        first += E
    if MORE:
        place = tl.load(places + j)
        there = place.to(tl.int64) * d + c
        d_enc += tl.load(more_enc + there, mask=inside & (place >= 0), other=0.0)
        d_dec += tl.load(more_dec + there, mask=inside & (place >= 0), other=0.0)
    tl.store(squares + j, tl.sum(d_enc * d_enc, 0) + tl.sum(d_dec * d_dec, 0))
    numbers = table + (tl.load(step) * saes + sae) * 2
    rate = tl.load(numbers)
    correction = tl.load(numbers + 1)
    at = j.to(tl.int64) * d + c
    w = tl.load(W_enc + at, mask=inside, other=0.0)
    w = adam(
        w, d_enc, m_enc + at, v_enc + at, inside, rate, correction, beta1, fresh1, beta2, fresh2, epsilon, SPARSE, True
    )
    tl.store(W_enc + at, w, mask=inside)
    w = tl.load(W_dec + at, mask=inside, other=0.0)
    if PROJECT:
        d_dec -= tl.sum(d_dec * w, 0) * w
    w = adam(
        w, d_dec, m_dec + at, v_dec + at, inside, rate, correction, beta1, fresh1, beta2, fresh2, epsilon, SPARSE, True
    )
    norm = tl.sqrt(tl.sum(w * w, 0))
    tl.store(W_dec + at, w / tl.where(tl.abs(norm - 1) > rounding, norm, 1.0), mask=inside)


@dataclass(frozen=True)
class Gradients:
    """The parts that the gradients of a batch are summed from."""

    x: Tensor
    """float32 [tokens, d_in]"""
    entries: Entries
    """The batch's codes."""
    sorted_entries: ByLatent
    """Their order by latent."""
    g: Tensor
    """[saes, tokens, d_in]; of the reconstructions."""
    d_codes: Tensor
    """[entries]; of the codes."""
    of_dead: DeadGradients | None
    """Gradients that some latents get in addition."""


def update_rows(stack: Stack, gradients: Gradients, rates: Rates, optimizer: Adam, project: bool) -> None:
    """Moves W_enc and W_dec with their moments, sets W_dec's rows to norm 1, and writes `stack.squares`.

    `project` removes the component of W_dec's gradient along each of its rows.
    """
    p, m, v = stack.parameters, stack.first_moments, stack.second_moments
    saes, n, d = p.W_enc.shape
    D = power_of_two(d)
    entries, found = gradients.entries, gradients.sorted_entries
    more = gradients.of_dead
    added = (found.starts, gradients.g, gradients.g) if more is None else (more.places, more.W_enc, more.W_dec)
    one, two, tokens = optimizer.beta1, optimizer.beta2, len(gradients.x)
    launch(
        rows_kernel, (saes * n,), gradients.x, p.b_dec, gradients.g, entries.codes, gradients.d_codes, entries.rows,
        found.order, found.starts, p.W_enc, p.W_dec, m.W_enc, v.W_enc, m.W_dec, v.W_dec, stack.squares,
        *added, rates.step, rates.table, one, 1 - one, two, 1 - two, optimizer.epsilon, ROUNDING, n, d, saes, tokens,
        D=D, E=ROWS, PROJECT=project, SPARSE=optimizer.sparse, MORE=more is not None, num_warps=warps(D),
    )  # fmt: skip
