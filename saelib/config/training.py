"""Settings of training. A variant is a named set of them, so a new variant needs no code."""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from saelib.config.base import Count, Device, Name, Positive, Section, UnitInterval, by_name
from saelib.config.preprocessings import KEEP_COVARIANCE, NEED_EIGENVECTORS, PlainPreprocessing, PreprocessingConfig
from saelib.config.sae_architectures import ArchitectureConfig, TopK


def _once_each(rates: tuple[float, ...]) -> tuple[float, ...]:
    """Refuses a learning rate that is listed twice: its two SAEs would be the same."""
    repeated = [f"{rate:g}" for rate, count in Counter(rates).items() if count > 1]
    if repeated:
        raise ValueError(f"lists {', '.join(repeated)} more than once")
    return rates


Rates = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_once_each)]


class IgnoreDeadLatents(Section):
    """Leaves dead latents alone."""

    kind: Literal["none"] = "none"


class AuxK(Section):
    """Makes dead latents fit the residual that the others leave (Gao et al. 2024)."""

    kind: Literal["auxk"]
    auxk_coefficient: Positive = 1 / 32
    """Weight of this auxiliary loss, relative to the reconstruction's."""
    k: Count | None = None
    """Dead latents that are used for each token. Without it, d_in // 2."""


class GhostGradients(Section):
    """Makes dead latents fit the residual at half its norm, through exp instead of ReLU (Jermyn and Templeton 2024)."""

    kind: Literal["ghost_grads"]


class Resampling(Section):
    """Restarts dead latents at badly reconstructed tokens, with optimizer states of 0 (Bricken et al. 2023)."""

    kind: Literal["resample"]
    every: Count = 25_000
    """Steps between resamplings. It must be well below `train.steps` to have an effect."""
    until: Count | None = None
    """Last step at which latents may restart. Without it, half of all steps, so that restarted latents can learn."""


class PreActLoss(Section):
    """Raises pre-activations that are below their threshold, a little and on every token (Anthropic, January 2025).

    The loss is sum_i ReLU(threshold_i - pre_i) ||d_i|| / s, with s as in `TanhPenalty`. Thresholds are JumpReLU's. It
    applies to other architectures as well, with 0 as threshold."""

    kind: Literal["pre_act"]
    coefficient: Positive = 3e-6
    """Weight of this loss, relative to the error's."""


_DeadLatents = Annotated[
    IgnoreDeadLatents | AuxK | GhostGradients | Resampling | PreActLoss, Field(discriminator="kind")
]
DeadLatentsConfig = Annotated[
    _DeadLatents,
    BeforeValidator(by_name, _DeadLatents | Literal["none", "auxk", "ghost_grads", "resample", "pre_act"]),
]


class Adam(Section):
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running mean of gradients, per step."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the running mean of squared gradients, per step."""
    epsilon: Positive = 1e-8
    """Constant added to the square root of that mean before the step is divided by it."""
    sparse: bool = False
    """Leave the moments and weights of a latent unchanged in steps in which it has no gradient (sparse Adam)."""


class SignSGD(Section):
    """Moves every parameter by the learning rate, against the sign of its gradient."""

    kind: Literal["sign_sgd"]


_Optimizer = Annotated[Adam | SignSGD, Field(discriminator="kind")]
OptimizerConfig = Annotated[_Optimizer, BeforeValidator(by_name, _Optimizer | Literal["adam", "sign_sgd"])]


class ScheduleConfig(Section):
    """Learning rate over the steps; constant by default."""

    warmup: UnitInterval = 0.0
    """Fraction of the steps over which the learning rate rises linearly from 0."""
    decay_from: UnitInterval = 1.0
    """Fraction of the steps after which the learning rate falls linearly to 0; 1 means no decay."""

    @model_validator(mode="after")
    def _phases_in_order(self) -> "ScheduleConfig":
        if self.warmup > self.decay_from:
            raise ValueError(f"warmup ({self.warmup}) ends after the decay begins ({self.decay_from})")
        return self


class KAnnealing(Section):
    """Lets k fall linearly from a larger number to `train.k` over the first steps.

    Trainers of dictionary_learning do so with `k_anneal_steps`. Histories measure with `train.k` all along."""

    start: Count | None = None
    """k of the first step. Without it, d_in, or d_sae if that is smaller."""
    until: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Fraction of the steps after which k is `train.k`."""


class Bypass(Section):
    """A linear map of low rank next to the latents, which absorbs dense directions (Deng et al. 2026).

    It adds (x - b_dec) A B to the reconstruction, in parallel to the encoder, which reads x as it is. A starts Gaussian
    and B at 0, so training starts as without it; the paper's abstract, all of it that was at hand, names no start.
    """

    rank: Count = 24
    """Columns of A and rows of B, at most d_in."""


class RandomRows(Section):
    """Random directions, whatever the data are."""

    kind: Literal["gaussian", "uniform"] = "gaussian"
    """Distribution of the entries of directions before normalization. `gaussian` makes them uniform on the sphere."""


class DatapointRows(Section):
    """Directions of random training tokens, about the initial b_dec, blended with random ones (Anthropic 2025)."""

    kind: Literal["datapoint"]
    blend: UnitInterval = 0.8
    """Weight p of the token: a direction is p t + (1 - p) r, normalized, with t the token's and r a random one. Both
    have norm 1 here; Anthropic's October 2025 update and saev leave the length of r to the library's own start."""


class WhitenedRows(Section):
    """Directions along Sigma^(-alpha/2) u, with u uniform on the sphere and Sigma the covariance of the activations.

    Neither the data nor the loss changes. It is meant for `preprocessing: center_median` (saelib's own method)."""

    kind: Literal["whitened"]
    alpha: UnitInterval = 0.25
    """Degree of whitening, from 0 (the same as `gaussian`) to 1."""


_Rows = Annotated[RandomRows | DatapointRows | WhitenedRows, Field(discriminator="kind")]
RowsConfig = Annotated[_Rows, BeforeValidator(by_name, _Rows | Literal["gaussian", "uniform", "datapoint", "whitened"])]


class InitConfig(Section):
    """Weights and biases before training."""

    rows: RowsConfig = RandomRows()
    """Directions of the latents: `gaussian`, `uniform`, `datapoint` or `whitened`."""
    tied: bool = True
    """Start W_dec as the transpose of W_enc. Otherwise it is drawn independently."""
    firing_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of tokens, between 0 and 1, on which each latent is positive at the start: encoder biases are set so
    (Conerly et al. 2025). Without it, biases start at 0."""
    calibrate: bool = False
    """Scale the encoder once so that the first reconstruction of a batch has the least squared error. It matters if k
    is close to d_in, when the first reconstruction is too large."""

    @model_validator(mode="after")
    def _rows_of_the_data_are_tied(self) -> "InitConfig":
        if self.rows.kind in ("datapoint", "whitened") and not self.tied:
            raise ValueError(f"rows: {self.rows.kind} gives encoder and decoder the same directions; leave tied true")
        return self


class VariantConfig(Section):
    """One way to train: a named set of options."""

    preprocessing: PreprocessingConfig = PlainPreprocessing(kind="raw")
    """Transformation of activations before the SAE reads them (docs/training.md). Set `center_median`, `pca` or `auto`
    if latents are dead at initialization."""
    architecture: ArchitectureConfig = TopK()
    """Rule that selects a token's active latents: `topk`, `batch_topk`, `matryoshka_batch_topk`, `abs_topk`, `relu` or
    `jumprelu`."""
    dead_latents: DeadLatentsConfig = IgnoreDeadLatents()
    """Treatment of latents that die during training: `none`, `auxk`, `ghost_grads`, `resample` or `pre_act`."""
    optimizer: OptimizerConfig = Adam()
    """Optimizer, which turns gradients into steps: `adam` or `sign_sgd`."""
    schedule: ScheduleConfig = ScheduleConfig()
    clip: Positive | None = None
    """Largest norm of the gradient over all parameters; larger gradients are scaled down to it. Without it, there is no
    limit. Set it if training diverges."""
    init: InitConfig = InitConfig()
    bypass: Bypass | None = None
    """Low-rank linear map next to the latents. Without it, there is none. `{}` has the defaults. Such an SAE cannot be
    exported, as no other library has a place for it."""
    k_annealing: KAnnealing | None = None
    """Fall of k from a larger number. Without it, k is constant. `{}` has the defaults."""
    aligned: bool = False
    """Keep the inner product of each latent's encoder and decoder directions at 1 ("aligned training", Brzozowski and
    Chung 2026). Training then moves the encoder across the decoder's direction only."""
    project_decoder: bool = True
    """Remove from W_dec's gradient its component along each row. Rows are set back to norm 1 after each step in any
    case."""
    frozen: Literal["none", "b_dec", "decoder", "features"] = "none"
    """Parameters that training must not change: `b_dec`, `decoder` (W_dec), or `features` (all but b_dec). It is meant
    for ablations. `decoder` trains an encoder for random directions, a strong baseline (docs/evaluation.md)."""
    learning_rates: Rates | None = None
    """Learning rates of this variant. Without it, `train.learning_rates`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seed of the initial weights and of the order of the batches. Without it, the suite's. Variants that differ in
    nothing else are seeds of one kind, over which an evaluation gives intervals."""
    d_sae: Count | None = None
    """Latents of this variant. Without it, `train.d_sae`."""

    @model_validator(mode="after")
    def _options_fit_together(self) -> "VariantConfig":
        if self.architecture.kind == "abs_topk":
            self._refuse_what_one_sign_needs()
        self._refuse_other_starts()
        if self.aligned and self.frozen == "decoder":
            raise ValueError("aligned moves encoder and decoder together, which frozen: decoder forbids")
        if self.k_annealing is not None and self.architecture.kind in ("relu", "jumprelu"):
            raise ValueError(
                f"k_annealing needs an architecture that selects k latents (found {self.architecture.kind})"
            )
        return self

    @property
    def trained_architecture(self) -> Literal["topk", "batch_topk", "abs_topk", "relu", "jumprelu"]:
        """The architecture of the SAE itself: training with nested SAEs makes a `batch_topk` SAE."""
        kind = self.architecture.kind
        return "batch_topk" if kind == "matryoshka_batch_topk" else kind

    @property
    def needs_eigenvectors(self) -> bool:
        """True if the start of a training may read the eigenvectors of the covariance."""
        return self.preprocessing.kind in NEED_EIGENVECTORS or self.init.rows.kind == "whitened"

    def _refuse_other_starts(self) -> None:
        rows, preprocessing = self.init.rows.kind, self.preprocessing.kind
        if rows == "whitened" and preprocessing not in KEEP_COVARIANCE:
            raise ValueError(f"init.rows: whitened needs a preprocessing that only centers (found {preprocessing})")
        if rows == "datapoint" and preprocessing == "active_subspace":
            raise ValueError("init.rows: datapoint and preprocessing: active_subspace both choose the directions")
        if self.init.calibrate and self.aligned:
            raise ValueError("init.calibrate would scale encoders, whose length aligned fixes; use one of them")
        if self.init.calibrate and self.architecture.kind == "jumprelu":
            raise ValueError("init.calibrate would scale pre-activations, but not the thresholds of jumprelu")

    def _refuse_what_one_sign_needs(self) -> None:
        if (kind := self.dead_latents.kind) in ("ghost_grads", "pre_act"):
            raise ValueError(f"dead_latents: {kind} is made for latents of one sign, and abs_topk has both; use auxk")
        if self.init.firing_rate is not None:
            raise ValueError("init.firing_rate sets how often a latent is positive, and abs_topk selects either sign")
        if self.preprocessing.kind == "auto":
            raise ValueError("preprocessing: auto cannot predict the death of abs_topk; name a preprocessing")


class StreamConfig(Section):
    """Training straight from a model's forward pass, without a store."""

    buffer_rows: Count = 131_072
    """Rows of each layer in the shuffle buffer, which is filled, drained in random order, then refilled. It is rounded
    down to whole batches, but holds at least one. Raise it if neighboring tokens are alike; it takes 2 d_in bytes of
    memory per row and layer."""
    sweeps_per_pass: Count | None = None
    """Sweeps (a layer and a variant, at all learning rates) that share a pass of the model, and so a job. Without it,
    all of the model's sweeps do. Lower it if a job runs out of memory."""

    def deciding(self) -> dict[str, Any]:
        """Returns the settings that can change the results of a training, as JSON."""
        return {"buffer_rows": self.buffer_rows}


class TrainConfig(Section):
    """Stage `train`: trains SAEs on each model's representative layer, or on its `train_layers`."""

    d_sae: Count = 1_024
    """Latents of each SAE."""
    k: Count = 32
    """Latents that are selected for a token."""
    batch_size: Count = 1_024
    """Tokens of a step."""
    steps: Count = 300
    """Steps of each training. Raise it until the reconstruction error no longer falls."""
    learning_rates: Rates = (1e-4, 1e-3, 1e-2)
    """Learning rates to compare. One SAE is trained at each, all from the same weights on the same batches, and the
    best is kept. Widen the range if the report says that the best rate is at an end."""
    dead_after_examples: Count = 256_000
    """A latent that has not fired for this many examples (tokens) counts as dead during training. Lower it if trainings
    are so short that `dead_latents` would have no effect."""
    record_every: Count = 20
    """Steps between rows of the history (history.parquet)."""
    checkpoint_minutes: Positive = 10.0
    """Minutes between checkpoints, from which a killed job resumes. Lower it if jobs have short time limits."""
    checkpoint_every: Count | None = None
    """Steps between checkpoints. Without it, they are `checkpoint_minutes` apart."""
    log_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """Logger that receives the rows of the history as they are recorded. Its package must be installed."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of matrix products in torch. `tf32` rounds the factors of all products of a step on NVIDIA GPUs, which
    compute them faster then; elsewhere it is the same as `float32`. `bfloat16` rounds the factors of the encoder's
    product more. The CPU kernels ignore both."""
    selection: Literal["screened", "float32"] = "screened"
    """Method of the CPU kernels to find the k largest pre-activations: `screened` finds candidates by a fast product in
    16-bit integers, whose error is bounded, and decides among them in float32; `float32` computes everything in
    float32. Both select the same latents, except for ties within rounding."""
    device: Device = "auto"
    """Device of training: `auto` (a free GPU if the machine has one, otherwise the CPU), `cpu`, `cuda` (a GPU or an
    error) or `cuda:1` (the second of the GPUs that are visible). It is not part of keys."""
    threads: Count = 1
    """CPU threads of a job. For small SAEs, several jobs with one thread each are faster than one job with several."""
    variants_per_job: Count = 1
    """Variants that a job trains at the same time on the same batches, if they have the same preprocessing and seed. A
    GPU trains those that are alike as one program; on CPUs, jobs of one variant each use several cores. Models with a
    `stream` have `sweeps_per_pass` instead. It changes no result."""
    variants: dict[Name, VariantConfig] = {
        "baseline": VariantConfig(),
        "auxk": VariantConfig(dead_latents=AuxK(kind="auxk")),
        "center_median": VariantConfig(preprocessing=PlainPreprocessing(kind="center_median")),
        "pca": VariantConfig(preprocessing=PlainPreprocessing(kind="pca")),
    }
    """Ways to train that are compared, under names of your choice."""

    @model_validator(mode="after")
    def _k_fits(self) -> "TrainConfig":
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is larger than d_sae = {self.d_sae}")
        for name, variant in self.variants.items():
            d_sae = variant.d_sae or self.d_sae
            if self.k > d_sae:
                raise ValueError(f"variants.{name}: k = {self.k} is larger than its d_sae = {d_sae}")
            prefixes = getattr(variant.architecture, "prefixes", None) or (0,)
            if prefixes[-1] >= d_sae:
                raise ValueError(f"variants.{name}: prefixes must be below d_sae = {d_sae} (found {prefixes[-1]})")
            start = variant.k_annealing.start if variant.k_annealing else None
            if start is not None and not self.k <= start <= d_sae:
                raise ValueError(
                    f"variants.{name}.k_annealing.start = {start} is not between k = {self.k} and d_sae = {d_sae}"
                )
        return self

    def sized_for(self, variant: VariantConfig) -> "TrainConfig":
        """Returns the settings of a variant's training: these, with the variant's own number of latents."""
        return self if variant.d_sae is None else self.model_copy(update={"d_sae": variant.d_sae})

    @property
    def largest_d_sae(self) -> int:
        """Latents of the widest variant."""
        return max((variant.d_sae or self.d_sae for variant in self.variants.values()), default=self.d_sae)

    def rows_of(self, name: str) -> str:
        """Names the rows that a variant reads: variants with the same name of rows read the same ones, in one order.

        Nobody knows before training which rows `auto` will choose, so such a variant has its own.
        """
        variant = self.variants[name]
        if variant.preprocessing.kind == "auto":
            return name
        return f"{variant.seed} {variant.preprocessing.model_dump_json()}"

    def deciding(self, variant: VariantConfig) -> dict[str, Any]:
        """Returns the settings that can change the results of a variant's training, as JSON."""
        elsewhere = {
            "variants",
            "learning_rates",
            "device",
            "threads",
            "variants_per_job",
            "checkpoint_minutes",
            "checkpoint_every",
            "log_to",
        }
        rates = {"learning_rates": variant.learning_rates or self.learning_rates}
        own = variant.model_copy(update=rates).model_dump(mode="json", exclude={"seed", "d_sae"})
        return self.sized_for(variant).model_dump(mode="json", exclude=elsewhere) | {"options": own}
