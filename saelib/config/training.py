"""How an SAE is trained, as types: a variant is a named set of these options, so a new one needs no code."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from saelib.config.base import Count, Name, Section

Positive = Annotated[float, Field(gt=0)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
Rates = Annotated[tuple[Positive, ...], Field(min_length=1)]

PreprocessingName = Literal[
    "raw",
    "center_median",
    "center_mean",
    "center_coordinate_median",
    "center_trimmed_mean",
    "layernorm",
    "ln_center",
    "rescale",
    "zscore",
    "pca",
]
"""Preprocessings without options; `saelib.preprocessing.fit` says what each does."""

NEED_EIGENVECTORS = {"pca", "partial_pca", "active_subspace", "auto"}
"""Preprocessings that may read the eigenvectors of the covariance."""


def _by_name(value: Any) -> Any:
    """`relu` is short for `{kind: relu}`."""
    return {"kind": value} if isinstance(value, str) else value


class PlainPreprocessing(Section):
    """A preprocessing without options."""

    kind: PreprocessingName
    """Its name (docs/training.md says what each does)."""


class PartialWhitening(Section):
    """PCA whitening to a degree: eigenvalues lambda become lambda^(1 - alpha)."""

    kind: Literal["partial_pca"]
    alpha: UnitInterval
    """0 only centers on the mean, 1 is `pca`."""


class ActiveSubspace(Section):
    """Centering on the geometric median, and initial directions drawn in the leading principal subspace (Wang 2025)."""

    kind: Literal["active_subspace"]
    rank: Count | None = None
    """Dimensions of the subspace; none: d_in // 2."""


class AutoPreprocessing(Section):
    """Chooses the preprocessing of each layer; `sweep.json` records the choice and the reason."""

    kind: Literal["auto"]
    rule: Literal["measured", "paper"] = "measured"
    """`measured` predicts from the training rows how many latents are dead at initialization for this d_sae and k, and
    takes the least invasive of `raw`, `center_median` and `pca` that leaves few, as `saelib diagnose` does. `paper` is
    the paper's rule, which knows only the layer's gamma and effective rank."""


_Preprocessing = Annotated[
    PlainPreprocessing | PartialWhitening | ActiveSubspace | AutoPreprocessing, Field(discriminator="kind")
]
PreprocessingConfig = Annotated[
    _Preprocessing,
    BeforeValidator(_by_name, _Preprocessing | PreprocessingName | Literal["active_subspace", "auto"]),
]


class TopK(Section):
    """The k largest positive pre-activations of each token."""

    kind: Literal["topk"] = "topk"


class BatchTopK(Section):
    """The k * tokens largest positive pre-activations of a batch (Bussmann et al. 2024)."""

    kind: Literal["batch_topk"]


class ReLU(Section):
    """Every positive pre-activation, with an L1 penalty weighted by decoder norms (Lindsey et al. 2024)."""

    kind: Literal["relu"]
    l1: Positive = 1e-3
    """Coefficient of sum_i z_i ||d_i||, beside a reconstruction error relative to the data's total variance."""


class JumpReLU(Section):
    """Pre-activations above a learned threshold, with a penalty on the distance to a target L0 (Rajamanoharan 2024)."""

    kind: Literal["jumprelu"]
    target_l0: Positive | None = None
    """Average number of active latents per token to aim at. Without it, `train.k`."""
    coefficient: Positive = 1.0
    """Weight of the penalty (L0 / target - 1)^2."""
    bandwidth: Positive = 1e-3
    """Width of the kernel that stands in for the step's derivative."""
    initial_threshold: Positive = 1e-3
    """Of every latent, before training."""


_Architecture = Annotated[TopK | BatchTopK | ReLU | JumpReLU, Field(discriminator="kind")]
ArchitectureConfig = Annotated[
    _Architecture, BeforeValidator(_by_name, _Architecture | Literal["topk", "batch_topk", "relu", "jumprelu"])
]


class IgnoreDeadLatents(Section):
    """Dead latents are left alone."""

    kind: Literal["none"] = "none"


class AuxK(Section):
    """Dead latents fit what the living ones left over (Gao et al. 2024)."""

    kind: Literal["auxk"]
    auxk_coefficient: Positive = 1 / 32
    """Of the auxiliary loss, next to that of the reconstruction."""
    k: Count | None = None
    """Dead latents used for a token; none: d_in // 2."""


class GhostGradients(Section):
    """Dead latents, through exp instead of ReLU, fit the residual at half its norm (Jermyn and Templeton 2024)."""

    kind: Literal["ghost_grads"]


class Resampling(Section):
    """Dead latents restart at badly reconstructed tokens, their optimizer state at 0 (Bricken et al. 2023)."""

    kind: Literal["resample"]
    every: Count = 25_000
    """Steps between two resamplings."""
    until: Count | None = None
    """The last step at which it happens; none: half of all steps."""


_DeadLatents = Annotated[IgnoreDeadLatents | AuxK | GhostGradients | Resampling, Field(discriminator="kind")]
DeadLatentsConfig = Annotated[
    _DeadLatents, BeforeValidator(_by_name, _DeadLatents | Literal["none", "auxk", "ghost_grads", "resample"])
]


class Adam(Section):
    """Adam (Kingma and Ba 2015); with `sparse`, moments of a latent stand still while it has no gradient."""

    kind: Literal["adam"] = "adam"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the mean of the gradients."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the mean of their squares."""
    epsilon: Positive = 1e-8
    """Added to the root of that mean, which divides the step."""
    sparse: bool = False
    """Whether moments of a latent stand still while it has no gradient."""


class SignSGD(Section):
    """Every parameter moves by the learning rate, against the sign of its gradient."""

    kind: Literal["sign_sgd"]


_Optimizer = Annotated[Adam | SignSGD, Field(discriminator="kind")]
OptimizerConfig = Annotated[_Optimizer, BeforeValidator(_by_name, _Optimizer | Literal["adam", "sign_sgd"])]


class ScheduleConfig(Section):
    """The learning rate over the steps: constant unless told otherwise."""

    warmup: UnitInterval = 0.0
    """Share of the steps over which the rate rises linearly from 0."""
    decay_from: UnitInterval = 1.0
    """Share of the steps after which the rate falls linearly to 0."""

    @model_validator(mode="after")
    def _phases_in_order(self) -> "ScheduleConfig":
        if self.warmup > self.decay_from:
            raise ValueError(f"warmup ({self.warmup}) ends after the decay begins ({self.decay_from})")
        return self


class InitConfig(Section):
    """Weights before training."""

    rows: Literal["gaussian", "uniform"] = "gaussian"
    """Distribution of the directions before they are normalized: `gaussian` is uniform on the sphere."""
    tied: bool = True
    """W_dec starts as the transpose of W_enc; otherwise it is drawn apart."""
    firing_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Set each encoder bias so that its latent is positive on this share of the tokens (Conerly et al. 2025);
    none: biases 0."""


class VariantConfig(Section):
    """A way to train: a named set of options."""

    preprocessing: PreprocessingConfig = PlainPreprocessing(kind="raw")
    """What is done to activations before the SAE reads them."""
    architecture: ArchitectureConfig = TopK()
    """How latents are selected for a token."""
    dead_latents: DeadLatentsConfig = IgnoreDeadLatents()
    """What is done during training about latents that have died."""
    optimizer: OptimizerConfig = Adam()
    """How gradients become steps."""
    schedule: ScheduleConfig = ScheduleConfig()
    clip: Positive | None = None
    """Largest norm of the gradient of all parameters together; none: no limit."""
    init: InitConfig = InitConfig()
    project_decoder: bool = True
    """Remove from W_dec's gradient what is along its rows, whose norms are set back to 1 after each step."""
    frozen: Literal["none", "b_dec", "features"] = "none"
    """What training must not move: `b_dec`, or `features` (everything but b_dec)."""
    learning_rates: Rates | None = None
    """Learning rates of this variant alone. Without it, `train.learning_rates`."""


class StreamConfig(Section):
    """Training straight from a model's forward pass."""

    buffer_rows: Count = 131_072
    """Rows of each layer that are mixed: a buffer of so many is filled, emptied in a random order, and filled again.
    Rounded down to whole batches, of which it holds at least one."""
    sweeps_per_pass: Count | None = None
    """Sweeps (a layer and a variant, at all learning rates) that share a pass of the model and so a job; none: all of
    the model's."""

    def deciding(self) -> dict[str, Any]:
        """What decides the numbers of a training, as JSON."""
        return {"buffer_rows": self.buffer_rows}


class TrainConfig(Section):
    """Stage `train`: SAEs on each model's representative layer, or on its `train_layers`."""

    d_sae: Count = 1_024
    """Latents of each SAE."""
    k: Count = 32
    """Latents that are selected for a token."""
    batch_size: Count = 1_024
    """Tokens of a step."""
    steps: Count = 300
    """Steps of each training."""
    learning_rates: Rates = (1e-4, 1e-3, 1e-2)
    """One SAE each, all from the same weights on the same batches; the best is kept."""
    dead_after_examples: Count = 256_000
    """A latent that has not fired for this many examples counts as dead during training."""
    record_every: Count = 20
    """Steps between recorded rows."""
    checkpoint_every: Count = 1_000
    """Steps between checkpoints, from which a killed job resumes."""
    log_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """Logger that gets the recorded rows in addition to history.parquet; its package must be installed."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder's matrix product in torch; the CPU kernels always select as float32 does."""
    selection: Literal["screened", "float32"] = "screened"
    """How the kernels find what TopK selects: from candidates of a product of 16-bit integers, whose error is bounded,
    decided in float32, or by the whole product in float32. The same is selected but for ties within rounding."""
    threads: Count = 1
    """CPU threads of a job; small SAEs train faster several at once than one on several cores."""
    variants: dict[Name, VariantConfig] = {
        "baseline": VariantConfig(),
        "auxk": VariantConfig(dead_latents=AuxK(kind="auxk")),
        "center_median": VariantConfig(preprocessing=PlainPreprocessing(kind="center_median")),
        "pca": VariantConfig(preprocessing=PlainPreprocessing(kind="pca")),
    }
    """Ways to train that are compared, by names of your choice."""

    @model_validator(mode="after")
    def _k_fits(self) -> "TrainConfig":
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is larger than d_sae = {self.d_sae}")
        return self

    def deciding(self, variant: VariantConfig) -> dict[str, Any]:
        """What decides the numbers of a variant's training, as JSON: all but where they are shown and kept."""
        elsewhere = {"variants", "learning_rates", "threads", "checkpoint_every", "log_to"}
        rates = {"learning_rates": variant.learning_rates or self.learning_rates}
        own = variant.model_copy(update=rates).model_dump(mode="json")
        return self.model_dump(mode="json", exclude=elsewhere) | {"options": own}
