"""Training steps as the mean grows: with a mean of 20 standard deviations every token selects the same few latents."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.contenders.worker import Setting
from benchmarks.gpu.card import Card
from benchmarks.gpu.contend import own_pace
from benchmarks.gpu.report import Row


def rows(card: Card) -> Iterator[Row]:
    """saelib and the eager script, whose dense products do not depend on what is selected."""
    for name in ("saelib", "eager"):
        setting = replace(card.setting(), precision="tf32")
        first = None
        for gamma in (0, 1, 5, 20):
            ms = own_pace(card, name, setting, x=_batch(setting, gamma)).ms
            first = first or ms
            yield Row(f"{name}, tf32, gamma {gamma}", {"ms": ms, "x gamma 0": ms / first})


def _batch(setting: Setting, gamma: float) -> torch.Tensor:
    """Tokens whose mean is `gamma` times as long as their spread."""
    generator = torch.Generator(setting.device).manual_seed(0)
    shape = (1 + setting.batch_size, setting.d_in)
    direction, x = torch.randn(shape, device=setting.device, generator=generator).split([1, setting.batch_size])
    return x + gamma * setting.d_in**0.5 * torch.nn.functional.normalize(direction)
