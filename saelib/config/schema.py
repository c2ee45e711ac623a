"""The configuration as types. The docstrings of their fields are its documentation."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from saelib.config.base import Count, Device, Fraction, Name, Section
from saelib.config.cluster import DaskConfig
from saelib.config.compare import CompareConfig
from saelib.config.datasets import DatasetConfig
from saelib.config.evaluation import LABELED, EvaluationConfig
from saelib.config.families import Dtype
from saelib.config.lab import Cell, ExperimentConfig
from saelib.config.layers import Layers, model_layers, some_of_the_layers
from saelib.config.preprocessings import NEED_EIGENVECTORS, PreprocessingName
from saelib.config.sites import SITE_FAMILIES, Layer, Site, compact, every_site, file_stem
from saelib.config.sources import SourceConfig
from saelib.config.training import StreamConfig, TrainConfig


def _switch(value: Any) -> Any:
    """Turns `true`, which is short for the defaults, into an empty section, and `false` into none."""
    return ({} if value else None) if isinstance(value, bool) else value


class StageResources(Section):
    """Resources that the jobs of one stage request from a cluster. Keys that are not given are estimated."""

    mem_mb: Annotated[int, Field(ge=600)] | None = None
    """Memory of a job's first attempt in MB, at least 600; each retry requests as much again. Set it if jobs are killed
    for memory in spite of retries."""
    runtime: Count | None = None
    """Time limit of every attempt in minutes. Set it if jobs reach their limit, or if your partition allows less."""
    gpu: Annotated[int, Field(ge=0)] | None = None
    """GPUs of a job, if the suite's `gpus` is true. Without it, one, or as many as a model with `device_map` fills."""


class ModelResources(Section):
    """Resources of a model's jobs on a cluster, by stage. Set them if the estimates are wrong; no result changes."""

    extract: StageResources = StageResources()
    """Resources of the model's one extraction."""
    stats: StageResources = StageResources()
    """Resources of each job that computes statistics of a block of layers."""
    init_death: StageResources = StageResources()
    """Resources of each job that measures death at initialization on a block of layers."""
    train: StageResources = StageResources()
    """Resources of each training."""
    evaluate: StageResources = StageResources()
    """Resources of the job that evaluates the model's SAEs."""
    features: StageResources = StageResources()
    """Resources of each job that writes pages of latents."""


class ModelConfig(Section):
    """One model of the suite."""

    domain: Annotated[str, StringConstraints(min_length=1, max_length=40, strip_whitespace=True)]
    """Group of the model in tables and figures, such as language, vision, protein or genomic."""
    source: SourceConfig
    """Source of the activations: the model's `family` and the options of that family (docs/models.md)."""
    dataset: Name | None = None
    """Data that the model reads: a name under `datasets`. Leave it out if the source has its own activations (family
    `arrays`)."""
    blocks: Annotated[int, Field(ge=0)] | None = None
    """Number of the model's blocks. Set it for `layers: all` or `1-` if the model's config.json is not on this machine
    yet. A wrong number is an error."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(model_layers, Layers)]
    """Layers to measure: `5`, `1-12`, `1-` (to the last), `all`, or a list of these. Layer i is the residual stream
    after block i, layer 0 the input of the first block. `all` means 1 to the last; for family `arrays` every layer that
    has a file."""
    sites: Annotated[tuple[Site, ...], Field(min_length=1)] = ("residual",)
    """Sites of each layer: `residual` is the residual stream; `attention_out` and `mlp_out` are the outputs of the
    block's attention and MLP that are added to it (docs/models.md). One forward pass serves all sites, and each has its
    own results and trained SAEs."""
    representative_layer: int | None = None
    """The layer that represents the model in figures, and that SAEs are trained on unless `train_layers` says
    otherwise. Without it, none is trained."""
    train_layers: Annotated[tuple[int, ...] | None, BeforeValidator(some_of_the_layers, Layers | None)] = None
    """Layers that SAEs are trained on, written as in `layers`. Without it, only the representative layer."""
    stream: Annotated[StreamConfig | None, BeforeValidator(_switch, StreamConfig | bool | None)] = None
    """Train on fresh activations straight from the model's forward pass, which are not stored; `true` means the
    defaults. Without it, training repeats the rows in the store. Set it if the tokens that training needs do not fit on
    disk."""
    width: Count | None = None
    """Dimensions of an activation (d_in). Set it so that `saelib plan` can estimate disk, memory and time before the
    weights are downloaded. A wrong width is an error."""
    parameters: Count | None = None
    """Number of the model's parameters. Set it so that memory and time can be estimated before the weights are
    downloaded; without it, a large model is assumed."""
    resources: ModelResources = ModelResources()
    license: str = ""
    """License of the weights, which the report states."""
    notes: str = ""
    """Remarks for readers of the report, such as how close the data is to the model's training data."""

    @property
    def places(self) -> tuple[Layer, ...]:
        """The layers at all of their sites."""
        return every_site(self.layers, self.sites)

    @property
    def trained_places(self) -> tuple[Layer, ...]:
        """The layers that SAEs are trained on, at all of their sites."""
        return every_site(self.trained_layers, self.sites)

    @property
    def trained_layers(self) -> tuple[int, ...]:
        """The layers that SAEs are trained on."""
        if self.train_layers is not None:
            return self.train_layers
        return () if self.representative_layer is None else (self.representative_layer,)

    @model_validator(mode="after")
    def _sites_exist(self) -> Self:
        if len(set(self.sites)) < len(self.sites):
            raise ValueError(f"sites {', '.join(self.sites)} name one twice")
        others = ", ".join(site for site in self.sites if site != "residual")
        if others and self.source.family not in SITE_FAMILIES:
            raise ValueError(
                f"sites: the family '{self.source.family}' has no {others}, only residual; families with other sites "
                f"are {', '.join(SITE_FAMILIES)}"
            )
        if others and 0 in self.layers:
            raise ValueError(f"sites: layer 0 is the embeddings, which have no {others}; leave it out of layers")
        return self

    @model_validator(mode="after")
    def _trained_layers_are_swept(self) -> Self:
        representative = () if self.representative_layer is None else (self.representative_layer,)
        for key, named in (("representative_layer", representative), ("train_layers", self.train_layers or ())):
            wrong = tuple(layer for layer in named if layer not in self.layers)
            if wrong:
                raise ValueError(f"{key} {compact(wrong)} is not among layers {compact(self.layers)}")
        if self.stream and not self.trained_layers:
            raise ValueError("stream needs a layer to train on; set representative_layer or train_layers")
        return self


class ExtractionConfig(Section):
    """Stage `extract`: writes activations of each model's layers to stores."""

    tokens: Count = 20_480
    """Training rows of each store, in tokens. Statistics, preprocessings and SAEs are fitted on them. Raise it for
    large SAEs; each token takes 2 d_in bytes of disk per layer."""
    heldout_tokens: Count = 8_192
    """Held-out rows of each store, in tokens, from other examples. Death and reconstruction are measured on them. With
    more tokens, fewer latents count as dead."""
    chunk_rows: Count = 4_096
    """Rows of a chunk file. Raise it if your file system is slow with many files."""
    window_rows: Count = 65_536
    """Rows that are shuffled together. A window of every layer is held in memory, so lower it if an extraction runs out
    of memory."""
    dtype: Dtype = "float32"
    """Number format of the forward pass, unless a model's `source` sets its own `dtype`."""
    device: Device = "auto"
    """Device of the forward pass: `auto` (a free GPU if the machine has one, otherwise the CPU), `cpu`, `cuda` (a GPU
    or an error) or `cuda:1` (the second of the GPUs that are visible). It is not part of keys."""
    threads: Count = 2
    """CPU threads of the forward pass. The number is fixed here, whatever cores a job gets, because rounding may depend
    on it. Raise it to the cores that one job may use."""


class StatsConfig(Section):
    """Stage `stats`: computes the statistics of every layer."""

    device: Device = "cpu"
    """Device of Gram matrices, moments and geometric medians: `cpu`, or a GPU (`auto`, `cuda` or `cuda:1`, as in
    `extraction.device`). Set it for wide layers or many tokens. If the extraction runs on the same GPU, it computes
    them in its own pass, from rows that stay there. Results differ by rounding, less than 1e-6, so keys depend on it,
    but not on the GPU's number."""
    layers_per_job: Count = 8
    """Layers of one model that share a job, which saves start-up time. Lower it to spread layers over more cores."""


class InitDeathConfig(Section):
    """Stage `init_death`: counts the latents of randomly initialized TopK SAEs that are dead on held-out tokens."""

    d_sae: Count = 2_048
    """Latents of each random dictionary. Set it to the size of the SAEs that you want to train."""
    k: Count = 64
    """Latents that are selected for a token."""
    seeds: Count = 3
    """Number of random dictionaries. Results are their means, and the report shows their spread."""
    preprocessings: tuple[PreprocessingName, ...] = (
        "raw",
        "center_median",
        "center_mean",
        "ln_center",
        "zscore",
        "pca",
    )
    """Preprocessings to compare by the latents that are dead under each (docs/training.md)."""
    device: Device = "cpu"
    """Device that multiplies tokens and latents: `cpu`, or a GPU (`auto`, `cuda` or `cuda:1`, as in
    `extraction.device`). If `stats.device` is a GPU too, an extraction on it also counts deaths. Counts are the same to
    the last latent, so it is not part of keys. Predictions for other sizes stay on the CPU."""
    layers_per_job: Count = 8
    """Layers of one model that share a job, which saves start-up time. Lower it to spread layers over more cores."""

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is larger than d_sae = {self.d_sae}")
        return self


WORK = ("models", "experiments")
"""Keys of which a suite has at least one."""

# No user, query or fragment: credentials have no place in a configuration.
BucketUrl = Annotated[str, StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._+-]+)*$")]


class Config(Section):
    """A suite: the models and layers to measure, the data that they read, and the settings of every stage."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [key], "properties": {key: {"minProperties": 1}}} for key in WORK]}
    )

    results: Annotated[Path, AfterValidator(Path.expanduser)] = Path("results")
    """Folder of all results. Like every path in the config, it is relative to the working folder."""
    stores: BucketUrl | None = None
    """Place of the activation stores on object storage, as `s3://bucket/prefix` (docs/storage.md). Without it, they are
    in the results folder."""
    dask: DaskConfig | None = None
    """Dask cluster that computes statistics (docs/storage.md). Without it, each job computes its own. Set it for layers
    with so many tokens that one machine is too slow."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of every random choice: the order of the data, the held-out split, the dictionaries and the weights."""
    heldout_fraction: Fraction = 0.3
    """Fraction of a data set's examples that is held out, between 0 and 1, in whole groups (documents, photographs,
    records)."""
    gpus: bool = False
    """Request GPUs from a cluster for extractions, trainings, and every other stage whose `device` is not `cpu`. On a
    single machine the key has no effect: each job takes a free GPU if there are any (`extraction.device`,
    `train.device`)."""
    datasets: dict[Name, DatasetConfig] = {}
    """Data that models read, under names of your choice; `kind` says what each data set is (docs/models.md)."""
    models: dict[Name, ModelConfig] = {}
    """Models of the suite, under names of your choice. It may be left out if there are `experiments`."""
    experiments: dict[Name, ExperimentConfig] = {}
    """Experiments on synthetic activations, under names of your choice (docs/lab.md). They need no models."""
    extraction: ExtractionConfig = ExtractionConfig()
    stats: StatsConfig = StatsConfig()
    init_death: InitDeathConfig = InitDeathConfig()
    train: TrainConfig = TrainConfig()
    evaluation: Annotated[EvaluationConfig | None, BeforeValidator(_switch, EvaluationConfig | bool | None)] = None
    """Measure the trained SAEs on held-out examples, next to baselines; `true` means the defaults. Without it, they are
    measured by the figures of their training alone."""
    features: bool = True
    """Write pages that show what each latent of the evaluated SAEs fires on (docs/features.md). Without `evaluation`,
    there are none."""
    compare: CompareConfig | None = None
    """Another table of layers, which the report shows next to this suite's."""

    @model_validator(mode="after")
    def _compared_models_exist(self) -> Self:
        unknown = [name for name in (self.compare.names if self.compare else ()) if name not in self.models]
        if unknown:
            raise ValueError(
                f"compare.names: {unknown[0]!r} is no model of the suite; models are {', '.join(self.models)}"
            )
        return self

    @model_validator(mode="after")
    def _statistics_have_one_place(self) -> Self:
        if self.dask and self.stats.device != "cpu":
            raise ValueError(
                f"stats.device: {self.stats.device} is for jobs that compute their own statistics, and `dask` names a "
                "cluster that computes them; leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _there_is_work(self) -> Self:
        if not self.models and not self.experiments:
            raise ValueError("names neither models nor experiments; add at least one of either")
        return self

    @model_validator(mode="after")
    def _evaluation_fits(self) -> Self:
        found = self.evaluation
        if found is None:
            return self
        if unknown := [name for name in found.references if name not in self.train.variants]:
            raise ValueError(f"evaluation.reference: {unknown[0]!r} is no variant of train.variants")
        for name, labels in found.labels.items():
            read = self.datasets[name].kind if name in self.datasets else self._family(name)
            if read != LABELED[labels.kind]:
                raise ValueError(
                    f"evaluation.labels.{name}: labels of kind {labels.kind} are for {LABELED[labels.kind]}, and "
                    f"{name} is {read or 'neither a data set nor a model of the suite'}"
                )
        for name in found.structures:
            if name not in self.datasets or self.datasets[name].kind != "sequences":
                raise ValueError(f"evaluation.structures: {name!r} is no data set of kind sequences")
        for name, embeddings in found.embeddings.items():
            read = [self.models[model].dataset if model in self.models else None for model in (name, embeddings.model)]
            if read[0] is None or read[0] != read[1]:
                raise ValueError(
                    f"evaluation.embeddings.{name}: {name} and {embeddings.model} should be two models of the suite "
                    "that read the same data set"
                )
        return self

    def _family(self, model: str) -> str | None:
        return self.models[model].source.family if model in self.models else None

    def needs_whitening(self) -> bool:
        """Checks whether any stage needs the eigenvectors of the covariance, which cost a second Gram matrix."""
        trained = any(variant.needs_eigenvectors for variant in self.train.variants.values())
        return trained or not NEED_EIGENVECTORS.isdisjoint(self.init_death.preprocessings)

    def store_path(self, model: str, layer: Layer) -> Path | str:
        """Returns the place of a layer's store, a folder or an s3:// URL."""
        if self.stores:
            return f"{self.stores}/{model}/{file_stem(layer)}.zarr"
        return self.results / "extract" / model / f"{file_stem(layer)}.zarr"

    def stats_path(self, model: str, layer: Layer) -> Path:
        """Returns the file of a layer's scalar statistics; the arrays are next to it."""
        return self.results / "stats" / model / f"{file_stem(layer)}.json"

    def init_death_path(self, model: str, layer: Layer) -> Path:
        """Returns the file of a layer's death at initialization."""
        return self.results / "init_death" / model / f"{file_stem(layer)}.json"

    def train_path(self, model: str, layer: Layer, variant: str) -> Path:
        """Returns the folder of a variant's training on a layer."""
        return self.results / "train" / model / file_stem(layer) / variant

    def evaluation_path(self, model: str, layer: Layer) -> Path:
        """Returns the folder of the evaluation of a layer's SAEs."""
        return self.results / "evaluation" / model / file_stem(layer)

    def features_path(self, model: str, layer: Layer, variant: str) -> Path:
        """Returns the folder of the pages of an SAE's latents."""
        return self.results / "features" / model / file_stem(layer) / variant

    def theory_path(self) -> Path:
        """Returns the file of the predictions by the closed forms."""
        return self.results / "theory" / "predictions.json"

    def lab_path(self, experiment: str, cell: Cell) -> Path:
        """Returns the file of one cell of an experiment; its name is a digest of the cell's coordinates."""
        return self.results / "lab" / experiment / f"cell_{cell.digest}.json"

    def keys_path(self) -> Path:
        """Returns the file that records what each result's key was computed from (`saelib.pipeline.reasons`)."""
        return self.results / "keys.json"
