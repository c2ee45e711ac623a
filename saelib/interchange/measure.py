"""Measure an SAE, whoever trained it, on any rows of its model's activations."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saelib.errors import UserError
from saelib.progress import progress
from saelib.rows import Rows
from saelib.sae.file import SavedSAE

MAX_CODES = 2**24
"""Codes (tokens * latents) held at once: 64 MB, a few times over."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """An SAE on some rows; x is as the model has it, before any preprocessing."""

    tokens: int
    d_in: int
    d_sae: int
    l0: float
    """Latents that fire for a token (have a code above 0), on average."""
    mse: float
    """||x - x_hat||^2, summed over dimensions, averaged over tokens."""
    variance_explained: float | None
    """1 - sum ||x - x_hat||^2 / sum ||x - mean||^2, about the mean of these rows; None where they are all equal."""
    dead_relu: float
    """Fraction of latents whose pre-activation is never above 0."""
    dead_topk_only: float
    """Fraction of latents that are above 0 somewhere and fire nowhere."""
    dead_total: float
    """Their sum: the fraction that never fires."""


@torch.no_grad()
def measure(saved: SavedSAE, rows: Rows, tokens: int | None = None) -> Measurement:
    """Measure an SAE on the first `tokens` rows (None: on all), read block by block.

    Raises:
        UserError: where the rows have another width than the SAE, or hold NaN or infinity.
    """
    sae, preprocess = saved.sae, saved.preprocess
    available, d_in = rows.shape
    if d_in != preprocess.d_in:
        raise UserError(f"{rows.name}: rows have {d_in} dimensions; the SAE reads {preprocess.d_in}")
    count = min(tokens or available, available)
    offset = 0.0 if rows.offset is None else rows.offset.astype(np.float64)
    positive = torch.zeros(sae.d_sae, dtype=torch.bool)
    fired, active, error = torch.zeros_like(positive), 0, 0.0
    # Squares about a row, not about 0: a large mean would drown them.
    origin, total, squares = rows.block(0, 1)[0].astype(np.float64) + offset, np.zeros(d_in), 0.0
    with progress(rows.name, count, "tokens", log) as advance:
        for start, stop in _blocks(count, rows.block_rows, sae.d_sae):
            x = rows.block(start, stop).astype(np.float64) + offset
            if not np.isfinite(x).all():
                raise UserError(f"{rows.name}: rows {start} to {stop} hold NaN or infinity")
            hidden_pre = sae.hidden_pre(torch.from_numpy(preprocess.apply(x)))
            codes = sae.activate(hidden_pre)
            positive |= (hidden_pre > 0).any(0)
            fired |= (codes > 0).any(0)
            active += int((codes > 0).sum())
            error += float(np.square(x - preprocess.restore(sae.decode(codes).numpy(), x)).sum())
            total += (x - origin).sum(0)
            squares += float(np.square(x - origin).sum())
            advance(stop - start)
    variance = squares - float(np.square(total).sum()) / count
    return Measurement(
        tokens=count,
        d_in=d_in,
        d_sae=sae.d_sae,
        l0=active / count,
        mse=error / count,
        variance_explained=1 - error / variance if variance > 0 else None,
        dead_relu=_fraction(~positive),
        dead_topk_only=_fraction(positive & ~fired),
        dead_total=_fraction(~fired),
    )


def _blocks(tokens: int, block_rows: int, d_sae: int) -> Iterator[tuple[int, int]]:
    """Runs of rows that are cheap to read together and whose codes fit into memory."""
    size = max(1, min(block_rows, MAX_CODES // d_sae))
    for start in range(0, tokens, size):
        yield start, min(start + size, tokens)


def _fraction(marked: Tensor) -> float:
    return marked.double().mean().item()
