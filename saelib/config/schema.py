"""The configuration as types. Every field's docstring is its documentation."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationInfo, model_validator

from saelib.config.base import Count, Fraction, Name, Section
from saelib.config.cluster import DaskConfig
from saelib.config.datasets import DatasetConfig
from saelib.config.families import Dtype
from saelib.config.sizes import every_layer
from saelib.config.sources import ArraysSource, SourceConfig
from saelib.config.training import NEED_EIGENVECTORS, PreprocessingName, StreamConfig, TrainConfig

UNKNOWN_BLOCKS = (
    "how many blocks the model has is not known without loading it; add `blocks: 12` (their number) beside `layers`, "
    "or write the range out, such as 1-12"
)

LayerSpan = Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(pattern=r"^\s*(all|\d+|\d+\s*-\s*\d*)\s*$")]
Layers = LayerSpan | list[LayerSpan]
"""What may stand for layers in the file; `parse_layers` reads it."""


def parse_layers(value: Any, every: Callable[[], Sequence[int] | None]) -> Any:
    """`3`, `"1-12"`, `"5-"`, `"all"` or a list of such -> sorted tuple of layer numbers.

    Args:
        value: What stands in the file.
        every: Gives all layers that there are, from 0; called for `all`, which leaves 0 out where there are others, and
            for ranges without an end. None: not known.

    Raises:
        ValueError: For anything else, and where all layers would have to be known.
    """
    items = value if isinstance(value, list | tuple) else [value]
    layers: set[int] = set()
    for item in items:
        span = re.fullmatch(r"\s*(\d+)\s*-\s*(\d*)\s*", str(item))
        if item == "all" or (span and not span[2]):
            layers.update(_open_range(1 if item == "all" else int(span[1]) if span else 0, item, every()))
        elif span and int(span[1]) <= int(span[2]):
            layers.update(range(int(span[1]), int(span[2]) + 1))
        elif isinstance(item, int) and not isinstance(item, bool) and item >= 0:
            layers.add(item)
        elif isinstance(item, str) and item.isdigit():
            layers.add(int(item))
        else:
            raise ValueError(f"{item!r} is not a layer number, a range such as '1-12' or '5-', or 'all'")
    if not layers:
        raise ValueError("names no layer")
    return tuple(sorted(layers))


def _open_range(first: int, item: str, every: Sequence[int] | None) -> Sequence[int]:
    if every is None:
        raise ValueError(UNKNOWN_BLOCKS)
    found = [layer for layer in every if layer >= first] or [layer for layer in every if item == "all"]
    if not found:
        raise ValueError(f"{item!r} begins behind the last layer, {max(every)}")
    return found


def _model_layers(value: Any, info: ValidationInfo) -> Any:
    source = info.data.get("source")
    if source is None:  # which is a mistake of its own
        return parse_layers(value, lambda: (0,))
    if isinstance(source, ArraysSource) and value == "all":
        return tuple(sorted(source.files))
    return parse_layers(value, lambda: every_layer(source, info.data.get("blocks")))


def _some_of_the_layers(value: Any, info: ValidationInfo) -> Any:
    """As for `layers`, of which `all` then means all; none is none."""
    layers = info.data.get("layers", (0,))
    return None if value is None else layers if value == "all" else parse_layers(value, lambda: layers)


def _switch(value: Any) -> Any:
    """`true` is short for the defaults, `false` for none."""
    return ({} if value else None) if isinstance(value, bool) else value


class StageResources(Section):
    """What a cluster is asked for, for the jobs of one stage; what is not given is estimated."""

    mem_mb: Annotated[int, Field(ge=600)] | None = None
    """Memory of the first attempt, in MB; each retry adds as much. At least 600, for the two Snakemakes."""
    runtime: Count | None = None
    """Time limit of every attempt, in minutes."""
    gpu: Annotated[int, Field(ge=0)] | None = None
    """GPUs of a job, where the suite's `gpus` is on."""


class ModelResources(Section):
    """Stage by stage, in place of the estimates of `saelib.pipeline.resources`. They decide no result."""

    extract: StageResources = StageResources()
    stats: StageResources = StageResources()
    init_death: StageResources = StageResources()
    train: StageResources = StageResources()


class ModelConfig(Section):
    """One model of the suite."""

    domain: Annotated[str, StringConstraints(min_length=1, max_length=40, strip_whitespace=True)]
    """Groups rows in tables and figures: language, vision, protein, genomic."""
    source: SourceConfig
    """How the model is loaded: its `family`, and that family's options (docs/models.md)."""
    dataset: Name | None = None
    """A name under `datasets`; not needed where the source brings its own activations."""
    blocks: Annotated[int, Field(ge=0)] | None = None
    """How many blocks the model has, where the files that say so are not here yet; another number is an error."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_model_layers, Layers)]
    """Layer i is the residual stream after block i: `5`, `1-12`, `1-` (to the last), `all`, or a list of these. `all`
    is every block's; of files, every one that is listed."""
    representative_layer: int | None = None
    """The layer that stands for the model in figures, and that SAEs are trained on."""
    train_layers: Annotated[tuple[int, ...] | None, BeforeValidator(_some_of_the_layers, Layers | None)] = None
    """Layers that SAEs are trained on, written as `layers`; none: the representative one, where there is one."""
    stream: Annotated[StreamConfig | None, BeforeValidator(_switch, StreamConfig | bool | None)] = None
    """Train on activations straight from the model's forward pass, which are stored nowhere; `true` for the defaults.
    None: on those in the store, over and over."""
    width: Count | None = None
    """d_in, where it should be known (`saelib plan`) before the weights are here; another width is an error."""
    parameters: Count | None = None
    """Number of weights, for the estimates of memory and time before the weights are here."""
    resources: ModelResources = ModelResources()
    """Resources of this model's jobs on a cluster; set them if the estimates are wrong."""
    license: str = ""
    """License of the weights; the tables' notes state it."""
    notes: str = ""
    """How in-distribution the data is, and whatever else a reader of the tables should know."""

    @property
    def trained_layers(self) -> tuple[int, ...]:
        """Layers that SAEs are trained on."""
        if self.train_layers is not None:
            return self.train_layers
        return () if self.representative_layer is None else (self.representative_layer,)

    @model_validator(mode="after")
    def _trained_layers_are_swept(self) -> Self:
        representative = () if self.representative_layer is None else (self.representative_layer,)
        for key, named in (("representative_layer", representative), ("train_layers", self.train_layers or ())):
            wrong = tuple(layer for layer in named if layer not in self.layers)
            if wrong:
                raise ValueError(f"{key} {compact(wrong)} is not among layers {compact(self.layers)}")
        if self.stream and not self.trained_layers:
            raise ValueError("stream is for training, but neither representative_layer nor train_layers names a layer")
        return self


class ExtractionConfig(Section):
    """Stage `extract`: activations into stores."""

    tokens: Count = 20_480
    """Training rows of each store: statistics, preprocessings and SAEs are fitted on these."""
    heldout_tokens: Count = 8_192
    """Held-out rows, from other examples: death and reconstruction are measured on these."""
    chunk_rows: Count = 4_096
    """Rows of a chunk file."""
    window_rows: Count = 65_536
    """Rows are shuffled within windows of this size, which are held in memory for every layer of a pass."""
    dtype: Dtype = "float32"
    """Number format of the forward pass, unless a model's `source` sets its own `dtype`."""
    threads: Count = 2
    """Processor threads of the forward pass, however many cores a job is given: with the number of threads, rounding
    may change."""


class StatsConfig(Section):
    """Stage `stats`."""

    layers_per_job: Count = 8
    """Layers of one model that share a process, which saves its start-up."""


class InitDeathConfig(Section):
    """Stage `init_death`: a randomly initialized TopK SAE on held-out tokens."""

    d_sae: Count = 2_048
    """Latents of the SAE."""
    k: Count = 64
    """Latents that are selected for a token."""
    seeds: Count = 3
    """Random dictionaries, whose spread is reported."""
    preprocessings: tuple[PreprocessingName, ...] = (
        "raw",
        "center_median",
        "center_mean",
        "ln_center",
        "zscore",
        "pca",
    )
    """Preprocessings to compare (docs/training.md)."""
    layers_per_job: Count = 8
    """Layers of one model that share a process, which saves its start-up."""

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is larger than d_sae = {self.d_sae}")
        return self


# No user, query or fragment: credentials have no place in a configuration.
BucketUrl = Annotated[str, StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._+-]+)*$")]


class Config(Section):
    """A suite: what to run, on which models, into which folder."""

    results: Annotated[Path, AfterValidator(Path.expanduser)] = Path("results")
    """Folder of all results, relative to the working folder like every path in the config."""
    stores: BucketUrl | None = None
    """Where activation stores lie, as `s3://bucket/prefix` (see docs/storage.md); none: in the results folder."""
    dask: DaskConfig | None = None
    """The cluster that computes statistics (see docs/storage.md); none: each job does it itself."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides every random choice: the order of the data, the split, the dictionaries and the weights."""
    heldout_fraction: Fraction = 0.3
    """Share of a dataset's examples that is held out, in whole groups (documents, photographs, records)."""
    gpus: bool = False
    """Whether extraction and training ask a cluster for GPUs. On one machine they take what they find."""
    datasets: dict[Name, DatasetConfig] = {}
    """Data that models are shown, by names of your choice; `kind` says what each is (docs/models.md)."""
    models: Annotated[dict[Name, ModelConfig], Field(min_length=1)]
    """Models of the suite, by names of your choice."""
    extraction: ExtractionConfig = ExtractionConfig()
    stats: StatsConfig = StatsConfig()
    init_death: InitDeathConfig = InitDeathConfig()
    train: TrainConfig = TrainConfig()

    def needs_whitening(self) -> bool:
        """Whether any stage asks for the eigenvectors of the covariance, which cost a second Gram matrix."""
        trained = [variant.preprocessing.kind for variant in self.train.variants.values()]
        return not NEED_EIGENVECTORS.isdisjoint((*self.init_death.preprocessings, *trained))

    def store_path(self, model: str, layer: int) -> Path | str:
        """Where stage `extract` puts a layer: a folder, or an s3:// URL."""
        if self.stores:
            return f"{self.stores}/{model}/layer_{layer}.zarr"
        return self.results / "extract" / model / f"layer_{layer}.zarr"

    def stats_path(self, model: str, layer: int) -> Path:
        """Where stage `stats` puts a layer's scalars; the arrays lie beside it."""
        return self.results / "stats" / model / f"layer_{layer}.json"

    def init_death_path(self, model: str, layer: int) -> Path:
        """Where stage `init_death` puts a layer's result."""
        return self.results / "init_death" / model / f"layer_{layer}.json"

    def train_path(self, model: str, layer: int, variant: str) -> Path:
        """The folder of stage `train` for a variant on a layer."""
        return self.results / "train" / model / f"layer_{layer}" / variant

    def theory_path(self) -> Path:
        """Where stage `theory` puts its predictions."""
        return self.results / "theory" / "predictions.json"

    def keys_path(self) -> Path:
        """Where a run writes what each result's key was made from (`saelib.pipeline.reasons`)."""
        return self.results / "keys.json"


def compact(layers: tuple[int, ...]) -> str:
    """(1, 2, 3, 7) -> '1-3, 7'."""
    parts: list[str] = []
    start = previous = layers[0]
    for layer in (*layers[1:], None):
        if layer is not None and layer == previous + 1:
            previous = layer
            continue
        parts.append(str(start) if start == previous else f"{start}-{previous}")
        if layer is not None:
            start = previous = layer
    return ", ".join(parts)
