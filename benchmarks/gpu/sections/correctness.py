"""Every method's steps on the device in float32, against float64: gradients by autograd, and the moves they cause.

Each step starts from the state of the device, which float64 holds exactly, and takes tokens on which nothing that it
selects hangs on rounding. So what differs is rounding alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.card import Card
from benchmarks.gpu.methods import make_trainer, methods
from benchmarks.gpu.reference import dense_loss
from benchmarks.gpu.report import Row
from saelib.config import VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.model import SAE
from saelib.sae.trainer import Trainer

STEPS = 6
MARGIN = 2e-6
"""Least distance between pre-activations, which are a few units large and have float32 errors of about 1e-7."""
COUNTERS, RESTART = "counters that differ", "tensors that a restart changes"
BOUNDS = {"gradient error": 1e-4, "move error": 2e-3, COUNTERS: 0, RESTART: 0}


@dataclass(frozen=True)
class Size:
    """The size of the SAEs that are compared."""

    d_in: int
    d_sae: int
    k: int
    tokens: int


def rows(card: Card) -> Iterator[Row]:
    """The worst relative error of each method, over steps and parameters."""
    size = card.either(Size(96, 1024, 16, 512), Size(16, 64, 4, 64))
    for name, variant in methods().items():
        figures = _compare(variant, size, card.device)
        yield Row(name, figures, {law: bound for law, bound in BOUNDS.items() if law in figures})


def _compare(variant: VariantConfig, size: Size, device: str) -> dict[str, float | int]:
    ours, exact = _trainer(variant, size, device, torch.float32), _trainer(variant, size, "cpu", torch.float64)
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(size.d_in, generator=generator)
    gradients, moves, counters = [], [], 0
    for _ in range(STEPS):
        exact.load_state_dict(ours.state_dict())
        x = decided_tokens([exact], size, mean, generator)
        wanted, before = _gradients(exact, x.double()), parameters_of(exact.sae)
        ours.step(x.to(device))
        exact.step(x.double())
        after, found = parameters_of(exact.sae), parameters_of(ours.sae)
        gradients += [length(grad - wanted[name]) / length(wanted[name]) for name, grad in _found_gradients(ours)]
        moves += [length(found[name] - after[name]) / length(after[name] - before[name]) for name in moved(ours)]
        counters += different(ours, exact, "tokens_since_fired") + different(ours, exact, "tokens_since_positive")
    figures: dict[str, float | int] = {"gradient error": max(gradients), "move error": max(moves)}
    if variant.optimizer.kind == "sign_sgd":  # the sign of a gradient that is nearly 0 hangs on rounding
        del figures["move error"]
    x = mean + torch.randn(size.tokens, size.d_in, generator=generator)
    return figures | {COUNTERS: counters, RESTART: _changed_by_restart(ours, variant, size, x.to(device))}


def _trainer(variant: VariantConfig, size: Size, device: str, dtype: torch.dtype) -> TorchTrainer:
    shape = {"d_in": size.d_in, "d_sae": size.d_sae, "k": size.k, "batch_size": size.tokens}
    return make_trainer(variant, **shape, device=device, dtype=dtype)


def decided_tokens(exact: Sequence[TorchTrainer], size: Size, mean: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 tokens whose pre-activations lie further apart, and further from every bar, than float32 rounds.

    They do so for every trainer.
    """
    for _ in range(20):
        x = mean + torch.randn(8 * size.tokens, size.d_in, generator=generator)
        x = x[torch.stack([_clear(trainer, x) for trainer in exact]).all(0)][: size.tokens]
        if len(x) == size.tokens and all(_bar_is_clear(trainer, x, size.k) for trainer in exact):
            return x
    raise RuntimeError("no batch was found on which nothing hangs on rounding")


@torch.no_grad()
def _clear(exact: TorchTrainer, x: Tensor) -> Tensor:
    """Marks tokens on which no pre-activation is close to another one or to a bar: boolean [tokens]."""
    sae, architecture = exact.sae, exact.variant.architecture
    pre = sae.hidden_pre(x.double())
    distances = [pre.sort(1).values.diff(), pre.abs()]
    if architecture.kind == "jumprelu":
        above = pre - sae.threshold
        distances += [above.abs(), (above.abs() - architecture.bandwidth / 2).abs()]
    return torch.cat(distances, 1).amin(1) > MARGIN


@torch.no_grad()
def _bar_is_clear(exact: TorchTrainer, x: Tensor, k: int) -> bool:
    """Checks whether the bar of the whole batch is clear."""
    largest = exact.sae.hidden_pre(x.double()).flatten().topk(k * len(x) + 1).values
    return bool(largest[-2] - largest[-1] > MARGIN)


def _gradients(exact: TorchTrainer, x: Tensor) -> dict[str, Tensor]:
    """Computes gradients by autograd through dense codes, then projects and clips them as the variant says."""
    variant = exact.variant
    p = {name: value.detach().clone().requires_grad_() for name, value in exact.sae.named_parameters()}
    dead_after, silent = exact.config.dead_after_examples, exact.tokens_since_fired
    dense_loss(p, x, variant, exact.config.k, exact.settings.variance, silent, dead_after)[0].backward()
    gradients = {name: value.grad for name, value in p.items() if value.grad is not None}
    if variant.project_decoder:
        along = (gradients["W_dec"] * p["W_dec"].detach()).sum(1, keepdim=True)
        gradients["W_dec"] = gradients["W_dec"] - along * p["W_dec"].detach()
    if variant.clip is not None:
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        gradients = {name: gradient * (variant.clip / norm).clamp(max=1) for name, gradient in gradients.items()}
    return gradients


def parameters_of(sae: SAE) -> dict[str, Tensor]:
    """Copies, in float64 on the CPU."""
    return {name: value.detach().to("cpu", torch.float64, copy=True) for name, value in sae.named_parameters()}


def _found_gradients(trainer: TorchTrainer) -> Iterator[tuple[str, Tensor]]:
    for name, value in trainer.sae.named_parameters():
        if value.grad is not None:
            yield name, value.grad.to("cpu", torch.float64)


def moved(trainer: TorchTrainer) -> list[str]:
    return [name for name, value in trainer.sae.named_parameters() if value.requires_grad]


def length(values: Tensor) -> float:
    return max(float(values.norm()), 1e-300)


def different(ours: Trainer, exact: TorchTrainer, counter: str) -> int:
    return int((getattr(ours, counter).cpu() != getattr(exact, counter)).sum())


def _changed_by_restart(ours: TorchTrainer, variant: VariantConfig, size: Size, x: Tensor) -> int:
    """Tensors of its state in which a training that was loaded from a checkpoint differs by a bit, two steps later."""
    again = _trainer(variant, size, x.device.type, torch.float32)
    again.load_state_dict(ours.state_dict())
    for trainer in (ours, again):
        trainer.step(x)
        trainer.step(x)
    state, other = ours.state_dict(), again.state_dict()
    return sum(not torch.equal(value, other[name]) for name, value in state.items())
