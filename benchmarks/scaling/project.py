"""Projects the costs of a suite: sizes from its config, measured costs, assumed GPUs and disks."""

from dataclasses import dataclass

from benchmarks.scaling.costs import Costs, step_flops
from benchmarks.scaling.hardware import Hardware
from benchmarks.scaling.sizes import Size
from saelib.config import Config, ModelConfig, VariantConfig
from saelib.config.sources import ArraysSource
from saelib.pipeline.needs import ModelNeeds, suite_needs, training_jobs
from saelib.pipeline.resources import WINDOW_BYTES, code_bytes, job_resources, most_rates, sae_bytes, sweeps_of_a_job
from saelib.train.checkpoint import KEPT

TRAINED_COPIES, SAVED_COPIES = 4, 3
"""Of an SAE's matrices on a GPU (weights, gradients, two moments) and in a checkpoint (no gradients); on a CPU the
kernels hold one more, which `saelib.pipeline.resources` counts."""


@dataclass(frozen=True)
class StageCost:
    """Costs of one stage over a whole suite."""

    gpu_hours: float = 0.0
    """Assumed, except for training steps that were measured."""
    cpu_hours: float = 0.0
    """Extrapolated from measurements; for stages on a GPU, the CPU's part of the work."""
    disk_hours: float = 0.0
    """Assumed: reading and writing, with nothing cached in memory."""
    disk: float = 0.0
    """Bytes on disk after the stage."""
    memory: float = 0.0
    """Bytes that its largest job requests (`saelib.pipeline.resources`)."""
    gpu_memory: float = 0.0
    """Bytes of its largest job."""

    def __add__(self, other: "StageCost") -> "StageCost":
        """Adds two stages: times and disk are summed, for memory the larger counts."""
        return StageCost(
            self.gpu_hours + other.gpu_hours,
            self.cpu_hours + other.cpu_hours,
            self.disk_hours + other.disk_hours,
            self.disk + other.disk,
            max(self.memory, other.memory),
            max(self.gpu_memory, other.gpu_memory),
        )


def with_tokens(config: Config, factor: int) -> Config:
    """Returns the suite with stores `factor` times as large. Training keeps its steps, so it rereads less often."""
    settings = config.extraction
    more = {"tokens": factor * settings.tokens, "heldout_tokens": factor * settings.heldout_tokens}
    return config.model_copy(update={"extraction": settings.model_copy(update=more)})


def project(config: Config, costs: Costs, passes: float, hardware: Hardware) -> dict[str, StageCost]:
    """Returns each stage's cost, and `total`. Models without `width` are left out (`unsized`).

    Args:
        config: The suite.
        costs: The measured costs.
        passes: How often statistics read each row.
        hardware: The assumed machine.
    """
    found = {stage: StageCost() for stage in ("extract", "stats", "init_death", "train")}
    for needs in suite_needs(config):
        if needs.width is None:
            continue
        model = config.models[needs.name]
        found["extract"] += _extract(config, model, needs, costs, hardware)
        found["stats"] += _stats(config, model, needs, costs, passes, hardware)
        found["init_death"] += _init_death(config, model, needs, costs, hardware)
        for _ in model.trained_layers:
            for name, variant in config.train.variants.items():
                found["train"] += _train(config, needs, name, variant, costs, hardware)
        if model.stream is not None:
            found["train"] += _stream(config, model, needs, hardware)
    return found | {"total": sum(found.values(), StageCost())}


def unsized(config: Config) -> list[str]:
    """Returns models whose width is not stated, or whose forward pass cannot be counted."""
    return [
        name
        for name, model in config.models.items()
        if model.width is None or (model.parameters is None and not isinstance(model.source, ArraysSource))
    ]


def _extract(config: Config, model: ModelConfig, needs: ModelNeeds, costs: Costs, hardware: Hardware) -> StageCost:
    dtype = getattr(model.source, "dtype", None) or config.extraction.dtype
    store = costs.seconds["store"].coefficients["rows"]
    size = needs.bytes or 0
    return StageCost(
        gpu_hours=hardware.gpu_seconds(2.0 * (model.parameters or 0) * needs.tokens, dtype=dtype) / 3600,
        cpu_hours=store * needs.tokens * needs.layers * (needs.width or 0) / 3600,
        disk_hours=size / hardware.disk_bandwidth / 3600,
        disk=size,
        memory=_memory(config, "extract", needs.name),
        gpu_memory=needs.gpu_bytes or 0,
    )


def _stats(
    config: Config, model: ModelConfig, needs: ModelNeeds, costs: Costs, passes: float, hardware: Hardware
) -> StageCost:
    size = Size(config.extraction.tokens, needs.width or 0)
    layers = len(model.layers)
    read = passes * size.tokens * size.d_in * 2 * layers
    return StageCost(
        cpu_hours=layers * costs.seconds["stats"](size) / 3600,
        disk_hours=read / hardware.disk_bandwidth / 3600,
        disk=layers * costs.disk["stats"](size),
        memory=_memory(config, "stats", needs.name),
    )


def _init_death(config: Config, model: ModelConfig, needs: ModelNeeds, costs: Costs, hardware: Hardware) -> StageCost:
    options, layers = config.init_death, len(model.layers)
    size = Size(config.extraction.heldout_tokens, needs.width or 0, options.d_sae)
    return StageCost(
        cpu_hours=layers * options.seeds * costs.seconds["init_death"](size) / 3600,
        disk_hours=layers * size.tokens * size.d_in * 2 / hardware.disk_bandwidth / 3600,
        disk=layers * costs.disk["init_death"](size),
        memory=_memory(config, "init_death", needs.name),
    )


def _train(
    config: Config, needs: ModelNeeds, name: str, variant: VariantConfig, costs: Costs, hardware: Hardware
) -> StageCost:
    """Projects all learning rates of a variant, which read the same batches: on a GPU, fed by a CPU."""
    options, d_in = config.train, needs.width or 0
    rates = len(variant.learning_rates or options.learning_rates)
    flops, moved = step_flops(variant, d_in, options.largest_d_sae, options.k, options.batch_size)
    rows = options.steps * options.batch_size
    if needs.streamed_tokens == 0 and 4 * d_in * config.extraction.tokens <= WINDOW_BYTES:
        rows = config.extraction.tokens  # read once, they stay in memory
    size = Size(rows, d_in, options.largest_d_sae)
    fed = costs.seconds["whitening"](size)
    if variant.preprocessing.kind not in ("pca", "partial_pca"):
        fed = costs.seconds["whitening"].coefficients["rows"] * rows * d_in
    return StageCost(
        gpu_hours=rates * options.steps * hardware.step_seconds(flops, moved) / 3600,
        cpu_hours=fed / 3600,
        disk_hours=0 if needs.streamed_tokens else rows * d_in * 2 / hardware.disk_bandwidth / 3600,
        disk=costs.disk["train"](size),
        memory=_memory(config, "train", f"{needs.name}/{name}"),
        gpu_memory=rates * sae_bytes(d_in, options.largest_d_sae, TRAINED_COPIES) + WINDOW_BYTES + code_bytes(options),
    )


def _stream(config: Config, model: ModelConfig, needs: ModelNeeds, hardware: Hardware) -> StageCost:
    """Projects the forward passes of trainings straight from a model, whose weights are in memory with the SAEs."""
    dtype = getattr(model.source, "dtype", None) or config.extraction.dtype
    tokens = needs.streamed_tokens * training_jobs(config, model)
    seconds = hardware.gpu_seconds(2.0 * (model.parameters or 0) * tokens, dtype=dtype)
    options = config.train
    saes = sweeps_of_a_job(config, model) * most_rates(options)
    memory = (needs.gpu_bytes or 0) + saes * sae_bytes(needs.width or 0, options.largest_d_sae, TRAINED_COPIES)
    return StageCost(gpu_hours=seconds / 3600, gpu_memory=memory)


def checkpoint_bytes(config: Config) -> int:
    """Returns the bytes of the largest training's checkpoints while it runs.

    These are `KEPT` checkpoints, each with the parameters and two moments of every learning rate.
    """
    options = config.train
    widest = max((model.width or 0 for model in config.models.values()), default=0)
    return KEPT * most_rates(options) * sae_bytes(widest, options.largest_d_sae, SAVED_COPIES)


def without_gpus(config: Config, costs: Costs) -> dict[str, float]:
    """Returns the core-hours of the GPU's work on CPUs like the measured one; training without AuxK's part."""
    rows = config.extraction.tokens + config.extraction.heldout_tokens
    options = config.train
    rates = sum(len(variant.learning_rates or options.learning_rates) for variant in options.variants.values())
    hours = {"extract": 0.0, "train": 0.0}
    for model in config.models.values():
        products = costs.seconds["extract"].coefficients["products"] * (model.parameters or 0)
        others = costs.seconds["extract"].coefficients["rows"] * (model.width or 0) * len(model.layers)
        hours["extract"] += (products + others) * rows / 3600
        if model.width is not None:
            size = Size(options.steps * options.batch_size, model.width, options.largest_d_sae)
            hours["train"] += len(model.trained_layers) * rates * costs.seconds["train"](size) / 3600
    return hours


def _memory(config: Config, stage: str, name: str) -> float:
    return job_resources(config, stage, name).mem_mb * 2**20
