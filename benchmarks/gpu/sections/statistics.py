"""Statistics of activations on the device, against those of the CPU's kernels."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu.card import Card
from benchmarks.gpu.report import Row
from saelib.activations.rows import ArrayRows
from saelib.stats import compute_stats
from saelib.stats.compute import CENTERS
from saelib.stats.medians import geometric_median
from saelib.stats.moments import plan_pass
from saelib.stats.on_device import DeviceTokens
from saelib.stats.slabs import open_slabs

SCALARS, CENTER = "worst error of gammas and effective rank", "worst error of a center, of sigma"


def rows(card: Card) -> Iterator[Row]:
    """All statistics of some tokens, which must be the CPU's; then times of the passes alone at two widths."""
    tokens, d_in = card.either((20_000, 768), (2000, 16))
    found, wanted = (compute_stats(_activations(tokens, d_in), device=name) for name in (_named(card), "cpu"))
    names = ("gamma", "gamma_raw", "gamma_unit", "effective_rank")
    scalars = max(abs(getattr(found, name) / getattr(wanted, name) - 1) for name in names)
    center = max(float(np.linalg.norm(found.arrays[name] - wanted.arrays[name])) for name in CENTERS) / wanted.sigma
    yield Row(f"d_in {d_in:,}, {tokens:,} tokens", {SCALARS: scalars, CENTER: center}, {SCALARS: 1e-6, CENTER: 1e-6})
    for d_in in card.either((768, 4096), (32,)):
        yield _times(card, d_in, card.either(100_000, 1000))


def _times(card: Card, d_in: int, tokens: int) -> Row:
    """Times of passes over tokens that are on the device, next to that of one Gram matrix alone."""
    slabs = open_slabs(_activations(tokens, d_in))
    on_device = DeviceTokens(slabs, _named(card), room=8.0 * tokens * d_in)
    plan = plan_pass(slabs, whitening=True)
    start = np.zeros(d_in)
    on_device.pull(start, None)  # copies the tokens
    part = torch.randn(4096, d_in, device=card.device, dtype=torch.float64)
    figures = {
        "moments and two Gram matrices, ms": card.median_ms(lambda: on_device.moments(plan), 3),
        "a Gram matrix in float64 alone, ms": card.median_ms(lambda: part.T @ part, 3) * tokens / len(part),
        "a step of a geometric median, ms": card.median_ms(lambda: on_device.pull(start, None), 3),
        "a geometric median, ms": card.median_ms(lambda: geometric_median(slabs, start, None, 1, on_device), 1),
    }
    return Row(f"d_in {d_in:,}, {tokens:,} tokens, passes alone", figures)


def _activations(tokens: int, d_in: int) -> ArrayRows:
    """Tokens with a decaying spectrum, about a mean of three times their spread."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((tokens, d_in), dtype=np.float32) * np.arange(1, d_in + 1, dtype=np.float32) ** -0.4
    mean = 3 * np.linalg.norm(x.std(0)) * rng.standard_normal(d_in, dtype=np.float32) / d_in**0.5
    return ArrayRows(x + mean.astype(np.float32))


def _named(card: Card) -> str:
    """The device's name, by which `compute_stats` takes the code for GPUs on a CPU too."""
    return card.device if card.on_gpu else "cpu:0"
