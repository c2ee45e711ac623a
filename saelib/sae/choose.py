"""Choice of the fastest trainer that can do a method, and one step of several trainers."""

import logging
from collections.abc import Callable, Sequence

from torch import Tensor

from saelib.config.training import VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.kernels.cpu import vector_lanes, why_unsupported
from saelib.sae.model import SAE
from saelib.sae.trainer import Trainer, TrainerSettings

log = logging.getLogger(__name__)


def make_trainer(sae: SAE, settings: TrainerSettings) -> Trainer:
    """A trainer that starts from `sae`, which it may take over; the log says which kind, and why.

    `sae` is on the device to train on, and its architecture is the variant's.
    """
    kind, reason = trainer_kind(sae, settings)
    log.info(reason)
    if kind is not TorchTrainer and settings.config.precision != "float32":
        log.info("the kernels select in float32: precision: %s has no effect", settings.config.precision)
    return kind(sae, settings)


def trainer_kind(sae: SAE, settings: TrainerSettings) -> tuple[Callable[[SAE, TrainerSettings], Trainer], str]:
    """The fastest kind of trainer for `sae`, and what the log says about it."""
    obstacle = _why_not_kernels(sae, settings.variant)
    if obstacle is not None:
        return TorchTrainer, f"training with torch: {obstacle}"

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
    """One step of every trainer on the batch `x` [tokens, d_in]: small SAEs side by side, others one after another.

    The kernels use `threads` threads in all. The bits are the same either way.
    """
    if why_unsupported() is not None:
        for trainer in trainers:
            trainer.step(x)
        return

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
    return "kernels avx512" if vector_lanes() == 16 else "kernels avx2"


def _why_not_kernels(sae: SAE, variant: VariantConfig) -> str | None:
    """The obstacle to the kernels; None if they can do it."""
    if sae.b_dec.device.type != "cpu":
        return f"the SAE is on {sae.b_dec.device}"
    if variant.architecture.kind not in ("topk", "batch_topk", "matryoshka_batch_topk"):
        return f"the kernels have no architecture {variant.architecture.kind}"
    if variant.dead_latents.kind not in ("none", "auxk"):
        return f"the kernels have no dead_latents {variant.dead_latents.kind}"
    if variant.aligned:
        return "the kernels do not align encoder and decoder"
    if variant.bypass is not None:
        return "the kernels have no bypass"
    if variant.k_annealing is not None:
        return "the kernels have a constant k"
    if variant.clip is not None:
        return "the kernels do not clip gradients"
    return why_unsupported()
