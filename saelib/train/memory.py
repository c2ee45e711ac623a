"""Estimates the memory of a GPU that a training takes, and finds sizes that would fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from saelib.config import TrainConfig, VariantConfig
from saelib.devices.memory import gigabytes, usable_bytes
from saelib.sae.choose import why_not_method_on_gpu

STATES = 4
"""Copies of each weight in training: itself, its gradient and Adam's two moments."""


@dataclass(frozen=True)
class Sizes:
    """Sizes that decide the memory of a training."""

    d_in: int
    d_sae: int
    batch_size: int
    rates: int
    """SAEs in memory: the learning rates of all sweeps of the job."""
    codes: int
    """Arrays [batch_size, d_sae] that the step of an SAE holds at once."""
    together: bool = False
    """True if all SAEs make their step at the same time, as one program (`saelib.sae.gpu`)."""

    @property
    def needed(self) -> float:
        """Bytes in float32, without stored rows, which stay in memory only if there is room (`DeviceBatches`)."""
        weights = 2 * self.d_in * self.d_sae
        batch = self.batch_size * (self.codes * self.d_sae + 8 * self.d_in)
        return 4.0 * (STATES * self.rates * weights + batch * (self.rates if self.together else 1))


def sizes_of(d_in: int, config: TrainConfig, variants: Sequence[VariantConfig]) -> Sizes:
    """The sizes of a job that trains these variants at the same time on activations of `d_in` dimensions."""
    rates = sum(len(variant.learning_rates or config.learning_rates) for variant in variants)
    d_sae, codes = max(config.sized_for(variant).d_sae for variant in variants), max(map(_codes, variants))
    together = any(why_not_method_on_gpu(variant) is None for variant in variants)
    return Sizes(d_in, d_sae, config.batch_size, rates, codes, together)


def room_for_rows(sizes: Sizes) -> float:
    """Bytes of the current GPU that stored rows may take, next to a training of these sizes."""
    import torch

    return usable_bytes() - max(sizes.needed, torch.cuda.memory_allocated())


def too_little_memory(name: str, sizes: Sizes, usable: float, sweeps: int, option: str) -> str:
    """The message that a training does not fit on its GPU.

    Args:
        name: What is trained.
        sizes: Its sizes.
        usable: Bytes of the GPU that the job can fill.
        sweeps: Sweeps of the job.
        option: The option that says how many sweeps a job has.
    """
    ways = list(_ways(sizes, usable, sweeps, option))
    would_fit = f"what would fit: {', or '.join(ways)}" if ways else "no smaller size of it would fit"
    return (
        f"{name}: its {sizes.rates} SAEs of d_sae {sizes.d_sae:,} and width {sizes.d_in:,} take about "
        f"{gigabytes(sizes.needed)} with batches of {sizes.batch_size:,}, and the GPU has {gigabytes(usable)} for "
        f"them; {would_fit}"
    )


def _ways(sizes: Sizes, usable: float, sweeps: int, option: str) -> Iterator[str]:
    """The largest single change of each size that would fit, found by halving it; rates are counted down."""
    for key in ("batch_size", "d_sae"):
        value = getattr(sizes, key) // 2
        while value and replace(sizes, **{key: value}).needed > usable:
            value //= 2
        if value:
            yield f"train.{key}: {value}"
    rates = next((n for n in range(sizes.rates - 1, 0, -1) if replace(sizes, rates=n).needed <= usable), 0)
    if rates and sweeps > 1:
        yield f"{option}: {max(1, sweeps * rates // sizes.rates)}"
    elif rates:
        yield f"{rates} learning rates in one suite and the others in another"


def _codes(variant: VariantConfig) -> int:
    """Arrays of the size of a batch's pre-activations: more if their gradients are dense."""
    dense = variant.architecture.kind in ("relu", "jumprelu")
    revived = variant.dead_latents.kind in ("auxk", "ghost_grads", "pre_act")
    return 2 + 2 * dense + 2 * revived
