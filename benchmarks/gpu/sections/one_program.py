"""Sweeps that train as one program, against float64, as in `correctness`; the last steps are replays of a CUDA graph.

The program needs a GPU: its tests without one are those of `tests/sae/gpu`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch

from benchmarks.gpu.card import Card
from benchmarks.gpu.methods import make_trainer, methods
from benchmarks.gpu.report import Row
from benchmarks.gpu.sections.correctness import (
    BOUNDS,
    COUNTERS,
    RESTART,
    STEPS,
    Size,
    decided_tokens,
    different,
    length,
    moved,
    parameters_of,
)
from benchmarks.gpu.sections.waits import WAITS, count_waits
from saelib.config import VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.choose import make_trainers, step_all, why_not_on_gpu
from saelib.sae.trainer import Trainer

RATES = (1e-3, 3e-3, 3e-4)
OTHERS = "tensors that the other SAEs change"
LAWS = {"move error": BOUNDS["move error"], COUNTERS: 0, RESTART: 0, OTHERS: 0}


def rows(card: Card) -> Iterator[Row]:
    """The worst relative error of each method and of a mixture, over steps, SAEs and parameters."""
    if not card.on_gpu:
        yield Row("sweeps as one program", note="need a GPU")
        return
    size, rates = card.either(Size(96, 1024, 16, 512), Size(16, 24, 3, 12)), card.either(RATES, RATES[:2])
    for name, variants in _programs().items():
        exact = [_exact(variant, size, rate) for variant in variants for rate in rates]
        obstacle = why_not_on_gpu(exact[0].sae, variants[0])
        if obstacle is None:
            counts_the_dead = variants[0].dead_latents.kind == "auxk"  # in every step of trainings as short as these
            laws = LAWS if counts_the_dead else LAWS | {WAITS: 0}
            yield Row(name, _compare(exact, size, card.device), laws)
        elif "Triton" in obstacle:
            yield Row(name, note=obstacle)


def _programs() -> Mapping[str, Sequence[VariantConfig]]:
    """Variants whose rates train as one program: each method alone, and TopK with BatchTopK."""
    both = [VariantConfig.model_validate({"architecture": kind}) for kind in ("topk", "batch_topk")]
    return {name: [variant] for name, variant in methods().items()} | {"topk and batch_topk": both}


def _exact(variant: VariantConfig, size: Size, rate: float) -> TorchTrainer:
    shape = {"d_in": size.d_in, "d_sae": size.d_sae, "k": size.k, "batch_size": size.tokens}
    trainer = make_trainer(variant, **shape, device="cpu", dtype=torch.float64)
    trainer.settings = replace(trainer.settings, learning_rate=rate)
    return trainer


def _together(exact: Sequence[TorchTrainer], device: str) -> list[Trainer]:
    """A program that trains what `exact` does, from its states."""
    trainers: list[Trainer] = []
    for _, rates in groupby(exact, key=lambda one: one.variant.architecture.kind):
        own = list(rates)
        sae = make_trainer(own[0].variant, **_shape(own[0]), device=device, dtype=torch.float32).sae
        trainers += make_trainers(sae, [trainer.settings for trainer in own])
    for trainer, other in zip(trainers, exact, strict=True):
        trainer.load_state_dict(other.state_dict())
    return trainers


def _shape(exact: TorchTrainer) -> dict[str, int]:
    config = exact.config
    return {"d_in": exact.sae.d_in, "d_sae": config.d_sae, "k": config.k, "batch_size": config.batch_size}


def _compare(exact: Sequence[TorchTrainer], size: Size, device: str) -> dict[str, float | int]:
    ours = _together(exact, device)
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(size.d_in, generator=generator)
    moves, counters = [], 0
    for _ in range(STEPS):
        for other, one in zip(exact, ours, strict=True):
            other.load_state_dict(one.state_dict())
        x = decided_tokens(exact, size, mean, generator)
        before = [parameters_of(other.sae) for other in exact]
        step_all(ours, x.to(device), threads=1)
        for one, other, was in zip(ours, exact, before, strict=True):
            other.step(x.double())
            found, after = parameters_of(one.sae), parameters_of(other.sae)
            moves += [length(found[name] - after[name]) / length(after[name] - was[name]) for name in moved(other)]
            counters += different(one, other, "tokens_since_fired") + different(one, other, "tokens_since_positive")
    x = (mean + torch.randn(size.tokens, size.d_in, generator=generator)).to(device)
    again, alone = _together(exact, device), _together(exact[-1:], device)
    for one, other in [*zip(again, ours, strict=True), (alone[0], ours[-1])]:
        one.load_state_dict(other.state_dict())
    for trainers in (ours, again, alone):  # only the steps of the first are replayed
        step_all(trainers, x, threads=1)
        step_all(trainers, x, threads=1)
    figures = {"move error": max(moves), COUNTERS: counters, RESTART: _changed(ours, again)}
    figures[OTHERS] = _changed(ours[-1:], alone)
    return figures | {WAITS: len(count_waits(lambda: step_all(ours, x, threads=1)))}


def _changed(ours: Sequence[Trainer], others: Sequence[Trainer]) -> int:
    """Tensors of their states in which trainers differ by a bit."""
    states = [(one.state_dict(), other.state_dict()) for one, other in zip(ours, others, strict=True)]
    return sum(not torch.equal(value, other[name]) for state, other in states for name, value in state.items())
