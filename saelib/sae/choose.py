"""Choice of the fastest trainer that can do a method, and one step of several trainers."""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib.util import find_spec

from torch import Tensor

from saelib.config.training import VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.gpu.launch import WIDEST, WIDEST_ROW
from saelib.sae.gpu.member import SweepMember, step_together
from saelib.sae.kernels.cpu import vector_lanes, why_unsupported
from saelib.sae.model import SAE
from saelib.sae.trainer import Trainer, TrainerSettings

log = logging.getLogger(__name__)

ON_GPU = {"architecture": ("topk", "batch_topk"), "dead_latents": ("none", "auxk"), "optimizer": ("adam",)}
"""Kinds of options that the kernels for GPUs have."""


def make_trainers(sae: SAE, settings: Sequence[TrainerSettings]) -> list[Trainer]:
    """A trainer for each of `settings`, which differ in the learning rate; all start from copies of `sae`.

    On a GPU, those that can train as one program will (`step_all`).
    """
    kind, reason = trainer_kind(sae, settings[0])
    if kind is not _sweep_of_one:
        return [make_trainer(deepcopy(sae), own) for own in settings]

    from saelib.sae.gpu.trainer import make_members

    log.info(reason)
    return [*make_members([sae] * len(settings), settings)]


def make_trainer(sae: SAE, settings: TrainerSettings) -> Trainer:
    """A trainer that starts from `sae`, which it may take over; the log says which kind, and why.

    `sae` is on the device to train on, and its architecture is the variant's.
    """
    kind, reason = trainer_kind(sae, settings)
    log.info(reason)
    if kind not in (TorchTrainer, _sweep_of_one) and settings.config.precision != "float32":
        log.info("the kernels select in float32: precision: %s has no effect", settings.config.precision)
    return kind(sae, settings)


def trainer_kind(sae: SAE, settings: TrainerSettings) -> tuple[Callable[[SAE, TrainerSettings], Trainer], str]:
    """The fastest kind of trainer for `sae`, and what the log says about it."""
    device = _device(sae)
    if device == "cpu":
        obstacle = _why_not_on_cpu(settings.variant)
    else:
        obstacle = why_not_on_gpu(sae, settings.variant) if device == "cuda" else f"the SAE is on {device}"
    if obstacle is not None:
        return TorchTrainer, f"training with torch: {obstacle}"
    if device == "cuda":
        return _sweep_of_one, "training with the kernels for TopK and BatchTopK on a GPU"

    from saelib.sae.kernels.batch_topk import BatchTopKTrainer
    from saelib.sae.kernels.large import KernelTrainer
    from saelib.sae.kernels.matryoshka import MatryoshkaTrainer
    from saelib.sae.kernels.small import SmallKernelTrainer, is_small

    if settings.variant.architecture.kind == "matryoshka_batch_topk":
        return MatryoshkaTrainer, "training with the kernels for Matryoshka BatchTopK on a CPU"
    if sae.architecture == "batch_topk":
        return BatchTopKTrainer, "training with the kernels for BatchTopK on a CPU"
    if is_small(sae, settings.config, settings.variant):
        return SmallKernelTrainer, "training with the kernels for small TopK SAEs on a CPU"
    return KernelTrainer, "training with the kernels for TopK on a CPU"


def step_all(trainers: Sequence[Trainer], x: Tensor, threads: int) -> None:
    """One step of every trainer on the batch `x` [tokens, d_in].

    On a GPU, TopK and BatchTopK SAEs of one shape make it as one program, also those of different sweeps. On a CPU,
    small SAEs make it side by side, and others one after another. The kernels for CPUs use `threads` threads in all,
    and give the same bits with any number.
    """
    step_together([trainer for trainer in trainers if isinstance(trainer, SweepMember)], x)
    others = [trainer for trainer in trainers if not isinstance(trainer, SweepMember)]
    if x.device.type != "cpu" or why_unsupported() is not None:
        for trainer in others:
            trainer.step(x)
    elif others:
        _step_on_cpu(others, x, threads)


def _step_on_cpu(trainers: Sequence[Trainer], x: Tensor, threads: int) -> None:
    from saelib.sae.kernels.small import SmallKernelTrainer
    from saelib.sae.kernels.threads import shared_workers
    from saelib.sae.kernels.topk_trainer import TopKTrainer

    small = [trainer for trainer in trainers if isinstance(trainer, SmallKernelTrainer)]
    side_by_side = small if len(small) > 1 else []
    for trainer in trainers:
        if isinstance(trainer, TopKTrainer):
            trainer.threads = 1 if trainer in side_by_side else threads
        if trainer not in side_by_side:
            trainer.step(x)
    shared_workers(threads).each(len(side_by_side), lambda i, _: side_by_side[i].step(x))


def backend(trainer: Trainer) -> str:
    """A name for the code that computes the steps, which decides their last bits."""
    if isinstance(trainer, TorchTrainer):
        return f"torch {trainer.sae.b_enc.device.type}"
    if isinstance(trainer, SweepMember):
        return f"triton {trainer.sae.b_enc.device.type}"
    return "kernels avx512" if vector_lanes() == 16 else "kernels avx2"


def _device(sae: SAE) -> str:
    return sae.b_dec.device.type


def _why_not_on_cpu(variant: VariantConfig) -> str | None:
    """The obstacle to the kernels for CPUs; None if they can do it."""
    if variant.architecture.kind not in ("topk", "batch_topk", "matryoshka_batch_topk"):
        return f"the kernels have no architecture {variant.architecture.kind}"
    if variant.dead_latents.kind not in ("none", "auxk"):
        return f"the kernels have no dead_latents {variant.dead_latents.kind}"
    return _why_not_in_kernels(variant) or why_unsupported()


def why_not_on_gpu(sae: SAE, variant: VariantConfig) -> str | None:
    """The obstacle to the kernels for GPUs, apart from the device of `sae`; None if they can do it."""
    if sae.d_in > WIDEST_ROW:
        return f"the kernels for GPUs take rows of up to {WIDEST_ROW:,} values (found {sae.d_in:,})"
    if 2 * (sae.k or 0) > WIDEST:
        return f"the kernels for GPUs select up to {WIDEST // 2:,} latents of a token (found {sae.k:,})"
    if find_spec("triton") is None:
        return "Triton, which compiles the kernels for GPUs, is not installed"
    return why_not_method_on_gpu(variant)


def why_not_method_on_gpu(variant: VariantConfig) -> str | None:
    """An option that the kernels for GPUs do not have; None if there is none."""
    for name, known in ON_GPU.items():
        kind = getattr(variant, name).kind
        if kind not in known:
            return f"the kernels for GPUs have no {name} {kind}"
    if variant.frozen == "features":
        return "the kernels for GPUs do not freeze features"
    return _why_not_in_kernels(variant)


def _why_not_in_kernels(variant: VariantConfig) -> str | None:
    """An option that no kernels have; None if there is none."""
    if variant.frozen == "decoder":
        return "the kernels do not freeze the decoder alone"
    if variant.aligned:
        return "the kernels do not align encoder and decoder"
    if variant.bypass is not None:
        return "the kernels have no bypass"
    if variant.k_annealing is not None:
        return "the kernels have a constant k"
    if variant.clip is not None:
        return "the kernels do not clip gradients"
    return None


def _sweep_of_one(sae: SAE, settings: TrainerSettings) -> Trainer:
    from saelib.sae.gpu.trainer import make_members

    return make_members([sae], [settings])[0]
