"""Estimates the memory, time and GPUs of a job from the sizes in the config, for a cluster's scheduler.

Estimates are generous: a request that is too small kills a job, one that is too large only makes it wait longer. A
model's `resources` replace them.
"""

import math
from dataclasses import dataclass

from saelib.config import Config, ModelConfig, TrainConfig
from saelib.config.schema import StageResources
from saelib.config.sizes import known_size
from saelib.config.sources import AlphaFold3Source, ArraysSource, TokenModelSource
from saelib.environments import ENVIRONMENTS
from saelib.pipeline.lab_resources import lab_mb, lab_seconds
from saelib.pipeline.plan import ALONG

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PATCH = {"stable_diffusion_3": 16, "transformers_vision": 14, "dinov2_onnx": 14}
"""Side in pixels of the patch that becomes a token; the smallest one if a family has several."""
WORKING_ROWS = 24
"""Rows of width d_in that a running block holds per token: its stream, queries, keys, values, and an MLP four times as
wide before and after its nonlinearity, all of it twice. Attention is not counted, because it runs in blocks."""

BASE_MB = {
    "extract": 1500,
    "stats": 900,
    "init_death": 900,
    "theory": 600,
    "train": 1500,
    "evaluate": 2000,
    "features": 1500,
    "report": 1500,
}
"""Memory of an idle job in MB: its process with the stage's libraries, and the two Snakemakes of a cluster job."""
UNKNOWN_WIDTH, UNKNOWN_PARAMETERS = 4096, 10**9
"""Sizes that are assumed for a model whose config does not state them."""
PROBES = 3 * 2048
"""Latents that the stage `init_death` multiplies by all held-out rows in addition to those that it counts."""
ENCODED_BYTES = 2**28
"""Pre-activations and codes of the block of tokens that an evaluation encodes."""
WINDOW_BYTES = 2**28
"""Training data in memory: one window of `saelib.train.batches_from_store`."""
GPU_BYTES = 36e9
"""Memory that a model spread over several GPUs may fill on each, for GPUs of 40 GB."""

START_MINUTES = 30
"""Minutes added to every job for the queue's slack, loading weights and a slow file system."""
LONGEST_MINUTES = 24 * 60
"""Longest estimate, because many partitions allow no more. A training that reaches it resumes from a checkpoint."""
CPU_FLOPS, GPU_FLOPS, DISK_BYTES = 1e10, 1e13, 2e7
"""Lower bounds on the speed of a thread, a GPU and a shared disk, per second."""


@dataclass(frozen=True)
class Resources:
    """Resources of one job, under Snakemake's names."""

    mem_mb: int
    runtime: int
    """Time limit in minutes."""
    gpu: int


def job_resources(config: Config, stage: str, name: str, attempt: int = 1) -> Resources:
    """Estimates the resources to request for a job.

    Args:
        config: The suite.
        stage: The job's stage.
        name: The job's name within its stage; it begins with the model's, if the job is about one model.
        attempt: The number of the attempt, from 1. Each further one gets as much memory again, and as much time again
            up to `LONGEST_MINUTES`.
    """
    if stage == "lab":
        experiment = config.experiments[name.partition("/")[0]]
        minutes = START_MINUTES + math.ceil(lab_seconds(experiment) / 60)
        return Resources(lab_mb(experiment) * attempt, min(minutes * attempt, LONGEST_MINUTES), 0)
    model = config.models.get(name.partition("/")[0])
    if model is None:  # a job over all models
        return Resources(BASE_MB[stage] * attempt, START_MINUTES * attempt, 0)
    model = with_known_width(model)
    given: StageResources = getattr(model.resources, stage)
    gpu = _gpus(config, stage, model)
    mem_mb = given.mem_mb or BASE_MB[stage] + math.ceil(_bytes(config, stage, model) / 2**20)
    minutes = START_MINUTES + math.ceil(_seconds(config, stage, model, gpu) / 60)
    return Resources(mem_mb * attempt, given.runtime or min(minutes * attempt, LONGEST_MINUTES), gpu)


def with_known_width(model: ModelConfig) -> ModelConfig:
    """Returns the model with a width: the one in its config or, without that, the one in its files, if they say."""
    return model if model.width else model.model_copy(update={"width": known_size(model.source).width})


def job_seconds(config: Config, stage: str, name: str) -> float:
    """Estimates the seconds of a job on a slow machine, without its start; 0 for jobs that are not about one model."""
    if stage == "lab":
        return lab_seconds(config.experiments[name.partition("/")[0]])
    model = config.models.get(name.partition("/")[0])
    return 0.0 if model is None else _seconds(config, stage, model, _gpus(config, stage, model))


def job_threads(config: Config, stage: str, name: str) -> int:
    """Returns the CPU threads of a job: those of the model's forward pass or of training, whichever are more."""
    forward = config.extraction.threads if runs_model(config, stage, name) else 1
    return max(forward, config.train.threads if stage == "train" else 1)


def runs_model(config: Config, stage: str, name: str) -> bool:
    """Checks whether a job runs a model: extractions, evaluations and trainings straight from the model do."""
    model = config.models.get(name.partition("/")[0])
    if model is None or stage == "lab":
        return False
    return stage in ("extract", "evaluate") or (stage == "train" and model.stream is not None)


def batch_tokens(config: Config, model: ModelConfig) -> int | None:
    """Returns the tokens of a forward pass if all examples have full length; None if the family does not say."""
    source = model.source
    if isinstance(source, TokenModelSource):
        return min(source.batch_tokens or 2**62, source.batch_size * source.max_length)
    if source.family in PATCH and model.dataset:
        side = getattr(config.datasets[model.dataset], "size", 0) // PATCH[source.family]
        return getattr(source, "batch_size", 1) * side * side or None
    return None


def model_bytes(config: Config, model: ModelConfig, batch: int) -> int | None:
    """Estimates the bytes of the weights, the recorded layers of `batch` tokens and a block's working memory.

    Returns None if the model's parameters or width are not known.
    """
    if model.parameters is None or model.width is None:
        return None
    value = BYTES[getattr(model.source, "dtype", None) or config.extraction.dtype]
    return value * (model.parameters + batch * model.width * (len(model.places) + WORKING_ROWS))


def sweeps_of_a_job(config: Config, model: ModelConfig) -> int:
    """Returns the most sweeps (each a layer and a variant) that one training job contains."""
    if model.stream is None:
        return max(1, min(len(config.train.variants), config.train.variants_per_job))
    wanted = len(model.trained_places) * len(config.train.variants)
    return min(wanted, model.stream.sweeps_per_pass or wanted) or 1


def sae_bytes(d_in: int, d_sae: int, copies: int) -> int:
    """Computes the bytes of an SAE's two float32 matrices, each held `copies` times (weights, gradients, moments)."""
    return copies * 2 * d_in * d_sae * 4


def code_bytes(options: TrainConfig) -> int:
    """Computes the bytes of a batch's pre-activations and codes, both dense and in float32."""
    return 2 * options.batch_size * options.largest_d_sae * 4


def most_rates(options: TrainConfig) -> int:
    """Counts the learning rates of the variant that has the most."""
    own = [len(variant.learning_rates or options.learning_rates) for variant in options.variants.values()]
    return max(own, default=len(options.learning_rates))


def stages_along(config: Config, model: ModelConfig) -> list[str]:
    """Lists the stages that an extraction on a GPU computes too, from the rows that stay there; none if `stats` is not.

    A model with packages of its own is left out: those of the other stages may be missing there.
    """
    if config.extraction.device == "cpu" or not _forward_gpus(config, model) or model.source.family in ENVIRONMENTS:
        return []
    stages = [stage for stage in ALONG if getattr(config, stage).device != "cpu"]
    return stages if "stats" in stages else []


def _gpus(config: Config, stage: str, model: ModelConfig) -> int:
    parts = {"extract": config.extraction, "stats": config.stats, "init_death": config.init_death}
    part = {**parts, "train": config.train, "evaluate": config.extraction}.get(stage)
    if not config.gpus or part is None or part.device == "cpu":
        return 0
    given: StageResources = getattr(model.resources, stage)
    if given.gpu is not None:
        return given.gpu
    if stage == "train":
        return max(1, _forward_gpus(config, model)) if model.stream else 1
    if stage in ("stats", "init_death"):
        return 1
    return _forward_gpus(config, model)


def _forward_gpus(config: Config, model: ModelConfig) -> int:
    source = model.source
    if isinstance(source, ArraysSource) or (isinstance(source, AlphaFold3Source) and not source.command):
        return 0
    if getattr(source, "device_map", None) is None:
        return 1
    return max(1, math.ceil((model_bytes(config, model, batch_tokens(config, model) or 0) or 0) / GPU_BYTES))


def _bytes(config: Config, stage: str, model: ModelConfig) -> float:
    """Estimates the memory that a job needs in addition to `BASE_MB`, in bytes."""
    d_in = model.width or UNKNOWN_WIDTH
    square = 8 * d_in**2
    if stage == "extract":
        settings = config.extraction
        windows = sum(min(settings.window_rows, rows) for rows in (settings.tokens, settings.heldout_tokens))
        along = stages_along(config, model) if _gpus(config, "extract", model) else []
        more = max((2**20 * BASE_MB[other] + _bytes(config, other, model) for other in along), default=0)
        return windows * d_in * len(model.places) * 2 + _forward_bytes(config, model, d_in) + more
    if stage == "stats":
        return 8 * square
    if stage == "init_death":
        options = config.init_death
        counted = options.d_sae * options.seeds * (len(options.preprocessings) + 1)
        return 4 * d_in * (counted + 2 * PROBES) + 4 * square  # probes, and as many sampled tokens
    if stage == "evaluate":
        return _forward_bytes(config, model, d_in) + _evaluation_bytes(config, model, d_in)
    if stage == "features":
        return _features_bytes(config, d_in)
    # The matrices with their gradients, two moments and a copy in another order; the codes of a batch.
    options = config.train
    sweep = sae_bytes(d_in, options.largest_d_sae, copies=5) * most_rates(options) + 4 * square
    codes = code_bytes(options)
    if model.stream is None:
        return 2 * WINDOW_BYTES + sweep + codes  # two windows, while one is read and the next is loaded
    buffer = max(model.stream.buffer_rows, options.batch_size) * d_in * 2 * len(model.trained_places)
    return buffer + sweeps_of_a_job(config, model) * sweep + codes + _forward_bytes(config, model, d_in)


def _evaluation_bytes(config: Config, model: ModelConfig, d_in: int) -> float:
    """Estimates the bytes of all SAEs of all layers, a block of dense codes, and one SAE's sparse codes, twice."""
    assert config.evaluation is not None
    saes = _evaluated_saes(config) * len(model.trained_places)
    codes = config.evaluation.tokens * (config.train.k * 8 * 3 + 4 * saes)
    labels = 2**29 if config.evaluation.labels else 0
    return saes * sae_bytes(d_in, config.train.largest_d_sae, copies=2) + ENCODED_BYTES + codes + labels


def _features_bytes(config: Config, d_in: int) -> float:
    """Estimates the bytes of all decoders of a layer, a block of cosines, codes and tokens, and what is shown."""
    assert config.evaluation is not None
    d_sae, variants = config.train.largest_d_sae, len(config.train.variants)
    return (
        variants * sae_bytes(d_in, d_sae, 2)
        + 3 * 2**12 * d_sae
        + 2**16 * d_sae
        + config.evaluation.tokens * (config.train.k * 8 * 2 + 64)
    )


def _evaluated_saes(config: Config) -> int:
    """Counts the SAEs of a layer that an evaluation compares."""
    assert config.evaluation is not None
    return len(config.train.variants) + len(config.evaluation.baselines)


def _forward_bytes(config: Config, model: ModelConfig, d_in: int) -> float:
    """Estimates the bytes of the model itself in CPU memory."""
    if isinstance(model.source, ArraysSource):
        return 0
    known = model.model_copy(update={"width": d_in, "parameters": model.parameters or UNKNOWN_PARAMETERS})
    # Twice: weights are read into one copy and moved into another.
    return 2 * (model_bytes(config, known, batch_tokens(config, model) or 0) or 0)


def _seconds(config: Config, stage: str, model: ModelConfig, gpu: int) -> float:
    """Estimates the seconds that a job needs in addition to `START_MINUTES`."""
    d_in, settings = model.width or UNKNOWN_WIDTH, config.extraction
    rows = settings.tokens + settings.heldout_tokens
    if stage == "extract":
        along = stages_along(config, model) if gpu else []
        own = 2 * rows * d_in / DISK_BYTES + sum(_layer_seconds(config, other, d_in, GPU_FLOPS) for other in along)
        return _forward_seconds(config, model, gpu, rows) + len(model.places) * own
    if stage in ("stats", "init_death"):
        layers = min(getattr(config, stage).layers_per_job, len(model.places))
        return layers * _layer_seconds(config, stage, d_in, CPU_FLOPS)
    if stage == "evaluate":
        return _evaluation_seconds(config, model, gpu)
    if stage == "features":
        d_sae = config.train.largest_d_sae
        return len(config.train.variants) * d_sae * (0.02 + 2 * d_in * d_sae / CPU_FLOPS)
    options = config.train
    speed = GPU_FLOPS if gpu else CPU_FLOPS * options.threads
    tokens = options.steps * options.batch_size
    training = sweeps_of_a_job(config, model) * most_rates(options) * 4 * tokens * d_in * options.largest_d_sae / speed
    return training + (_forward_seconds(config, model, gpu, tokens) if model.stream else 0)


def _layer_seconds(config: Config, stage: str, d_in: int, speed: float) -> float:
    """Estimates the seconds of `stats` or `init_death` on one layer, whose products run at `speed`, others on a CPU."""
    settings, options = config.extraction, config.init_death
    if stage == "stats":
        return 4 * (settings.tokens + settings.heldout_tokens) * d_in**2 / speed + 20 * d_in**3 / CPU_FLOPS
    counted = options.seeds * len(options.preprocessings) * options.d_sae
    return 2 * settings.heldout_tokens * d_in * (counted / speed + PROBES / CPU_FLOPS)


def _evaluation_seconds(config: Config, model: ModelConfig, gpu: int) -> float:
    """Estimates the seconds of the pass and of matching the latents of every two SAEs."""
    assert config.evaluation is not None
    d_in, tokens, d_sae = model.width or UNKNOWN_WIDTH, config.evaluation.tokens, config.train.largest_d_sae
    saes, layers = _evaluated_saes(config), len(model.trained_places)
    encoding = 8 * saes * tokens * d_in * d_sae
    matching = saes**2 / 2 * d_sae**3
    tokens += (2 + saes) * layers * (config.evaluation.ce_loss_tokens or 0)
    return _forward_seconds(config, model, gpu, tokens) + layers * (encoding + matching) / CPU_FLOPS


def _forward_seconds(config: Config, model: ModelConfig, gpu: int, tokens: int) -> float:
    parameters = 0 if isinstance(model.source, ArraysSource) else model.parameters or UNKNOWN_PARAMETERS
    speed = GPU_FLOPS * gpu if gpu else CPU_FLOPS * config.extraction.threads
    return 3 * parameters * tokens / speed
