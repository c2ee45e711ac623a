"""Settings of the lab: experiments on synthetic activations, each a grid of cells with several seeds."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, ValidationError, model_validator

from saelib.config.base import Count, Name, Positive, Section
from saelib.config.grid import Coordinates, Grid, axis, combinations, grid_of, label, repeated
from saelib.config.preprocessings import PlainPreprocessing, PreprocessingConfig
from saelib.config.sae_architectures import ArchitectureConfig, TopK
from saelib.config.synthetic import BenchmarkDataConfig, StoredDataConfig, SyntheticConfig
from saelib.config.training import VariantConfig


class SaeSize(Section):
    """Sizes of an SAE, and the distribution of its first weights."""

    d_sae: Count = 100
    """Latents."""
    k: Count = 5
    """Latents that are selected for a token."""
    rows: Literal["gaussian", "uniform"] = "gaussian"
    """Distribution of the entries of encoder rows before normalization. `gaussian` makes them uniform on the sphere."""

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is larger than d_sae = {self.d_sae}")
        return self


if TYPE_CHECKING:
    SyntheticGrid = Grid
    BenchmarkGrid = Grid
    StoredGrid = Grid
    SaeGrid = Grid
else:
    SyntheticGrid = grid_of(SyntheticConfig, "SyntheticGrid")
    BenchmarkGrid = grid_of(BenchmarkDataConfig, "BenchmarkGrid")
    StoredGrid = grid_of(StoredDataConfig, "StoredGrid")
    SaeGrid = grid_of(SaeSize, "SaeGrid")


Value = bool | int | float | str


class LabFigure(Section):
    """Layout of a figure of an experiment. It changes no result."""

    shows: str = ""
    """Caption of this figure, in addition to that of the experiment."""
    where: dict[str, tuple[Value, ...]] = {}
    """Rows to draw: column -> its values. Without it, all."""
    x: str | None = None
    """Column of the experiment's table along the horizontal axis. Without it, the steps of a training, otherwise the
    first axis of the grid."""
    y: tuple[str, ...] = ()
    """Measured columns, each in a row of panels. Without it, the kind of the experiment decides."""
    panels: str | None = None
    """Column whose values get panels of their own, next to each other."""
    lines: tuple[str, ...] | None = None
    """Columns whose values get lines of their own. Without it, all that differ within a panel."""
    color: str | None = None
    """Column that decides the colors of the lines. Without it, each line has its own."""
    theory: tuple[Literal["predicted", "paper", "corrected", "limit"], ...] = ("predicted",)
    """Predictions of death to draw: `predicted` is our closed form, `paper` the paper's, `corrected` the form that
    knows kurtosis and rank, `limit` the value at infinite gamma."""
    marks: Literal["lines", "points"] = "lines"
    """`points` draws no lines and no intervals, for records that have no order."""
    log: bool | None = None
    """Make the horizontal axis logarithmic. Without it, if its values are positive and span a factor of 10 or more."""
    log_y: bool | tuple[str, ...] = False
    """Make the vertical axis logarithmic: of all columns of `y`, or of those that are named here."""


@dataclass(frozen=True)
class Cell:
    """One point of an experiment's grid."""

    axes: Coordinates
    """The coordinates that differ between the cells of the experiment."""
    data: SyntheticConfig | BenchmarkDataConfig | StoredDataConfig
    sae: SaeSize
    settings: Coordinates
    """The values of the axes that belong to the kind of the experiment."""

    tokens: int
    """Tokens that the cell handles for each seed."""

    @property
    def digest(self) -> str:
        """Digest of all coordinates, which stays the same if an axis of the grid grows."""
        everything = [part.model_dump(mode="json") for part in (self.data, self.sae)]
        return hashlib.sha256(json.dumps([*everything, self.settings], sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The cell's name within its experiment, such as 'gamma=2, k=5'; 'all' in a grid without axes."""
        return label(self.axes) or "all"


class Experiment(Section):
    """Keys that all kinds of experiments have."""

    shows: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
    """Caption: what the experiment shows, such as the figure of a paper that it repeats."""
    data: SyntheticGrid = SyntheticGrid()
    """Activations. Every key may be a list, which becomes an axis of the grid."""
    sae: SaeGrid = SaeGrid()
    """Sizes of the SAEs. Every key may be a list, which becomes an axis of the grid."""
    seeds: Count = 5
    """Number of repetitions. Each has its own features, tokens and weights; the report shows means and 95 % intervals
    (Student's t) over them."""
    cells_per_job: Count = 16
    """Cells of the grid that share a job. Lower it to spread an experiment over more cores or machines."""
    figures: Annotated[dict[Name, LabFigure], Field(min_length=1)] = {"main": LabFigure()}
    """Figures to draw of the experiment's table, under names of your choice."""

    def cells(self) -> Iterator[Cell]:
        """Yields the cells of the grid; the axes of `data` vary slowest."""
        data, sae, own = self.data.values(), self.sae.values(), self.own_axes()
        several = {name for part in (data, sae, own) for name, values in part.items() if len(values) > 1}
        for d in combinations(data):
            for s in combinations(sae):
                for o in combinations(own):
                    axes = {name: value for name, value in (d | s | o).items() if name in several}
                    of_data: Any = self.data.of(**d)
                    yield Cell(axes, of_data, SaeSize(**s), o, self.tokens_of(o))

    def own_axes(self) -> dict[str, tuple[Any, ...]]:
        """Returns the axes that only this kind of experiment has."""
        return {}

    @abstractmethod
    def tokens_of(self, settings: Coordinates) -> int:
        """Counts the tokens that a cell with these settings handles for each seed."""

    def deciding(self, cell: Cell) -> dict[str, Any]:
        """Returns the settings that can change the results of a cell, as JSON."""
        grid = {"data", "sae", "shows", "figures", "cells_per_job", *self.own_axes()}
        parts = {"data": cell.data.model_dump(mode="json"), "sae": cell.sae.model_dump(mode="json")}
        return self.model_dump(mode="json", exclude=grid) | parts | cell.settings

    @model_validator(mode="after")
    def _each_cell_is_one(self) -> Self:
        for name, values in (self.data.values() | self.sae.values() | self.own_axes()).items():
            twice = repeated(values)
            if twice:
                raise ValueError(f"{name}: the value {twice[0]} appears twice")
        return self


class InitDeathExperiment(Experiment):
    """Counts the latents of untrained TopK SAEs that are dead on synthetic activations."""

    kind: Literal["init_death"]
    tokens: axis(Count) = (100_000,)  # type: ignore[valid-type]
    """Evaluation tokens. Of a list, the counts after each number are kept, all from the same tokens."""
    preprocessings: Annotated[tuple[PreprocessingConfig, ...], Field(min_length=1)] = (PlainPreprocessing(kind="raw"),)
    """Preprocessings to compare on the same tokens (docs/training.md)."""
    calibration_tokens: Annotated[Count, Field(ge=2)] = 10_000
    """Further tokens, which preprocessings are fitted to and statistics are measured on."""
    per_latent: bool = False
    """Keep a record for each latent (mean and standard deviation of its pre-activations, and whether it is dead)
    instead of rates. Set `seeds: 1` with it, because the latents of different seeds have nothing in common."""

    def tokens_of(self, settings: Coordinates) -> int:
        """Counts the evaluation tokens."""
        return max(self.tokens)

    @model_validator(mode="after")
    def _preprocessings_are_named(self) -> Self:
        if any(one.kind == "auto" for one in self.preprocessings):
            raise ValueError("preprocessings: auto chooses for trainings; name the ones to compare")
        return self


class GradientExperiment(Experiment):
    """Measures the gradients of untrained SAEs: how much larger those of the matrices are than that of `b_dec`."""

    kind: Literal["gradient"]
    batch_size: Count = 4096
    """Tokens of the batch."""

    def tokens_of(self, settings: Coordinates) -> int:
        """Counts the tokens of the batch."""
        return self.batch_size


class Trainings(Experiment):
    """Keys of the kinds of experiments that train SAEs."""

    variants: Annotated[dict[Name, VariantConfig], Field(min_length=1)] = {"baseline": VariantConfig()}
    """Ways to train that are compared, under names of your choice; the same keys as `train.variants`."""
    learning_rate: axis(Positive) = (5e-4,)  # type: ignore[valid-type]
    """Peak learning rate; may be a list."""
    batch_size: axis(Count) = (4096,)  # type: ignore[valid-type]
    """Tokens of a step; may be a list."""
    steps: Count = 10_000
    """Steps of each training."""
    heldout_tokens: Count = 4096
    """Held-out tokens that each record is measured on."""
    dead_after_examples: Count = 256_000
    """A latent that has not fired for this many examples (tokens) counts as dead for `dead_latents`."""

    def own_axes(self) -> dict[str, tuple[Any, ...]]:
        """Returns learning rates, batch sizes and the names of the variants."""
        return {
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "variant": tuple(self.variants),
        }

    def tokens_of(self, settings: Coordinates) -> int:
        """Counts the tokens of all steps."""
        return self.steps * settings["batch_size"]

    def variant_of(self, settings: Coordinates) -> VariantConfig:
        """Returns the way to train at these coordinates."""
        return self.variants[settings["variant"]]

    def deciding(self, cell: Cell) -> dict[str, Any]:
        """Returns the settings that can change the results of a cell, as JSON."""
        shared = super().deciding(cell)
        del shared["variants"]
        return shared | {"variant": self.variant_of(cell.settings).model_dump(mode="json")}

    @model_validator(mode="after")
    def _rows_are_the_variants(self) -> Self:
        if self.sae.values()["rows"] != ("gaussian",):
            raise ValueError("sae.rows: trainings take the rows of their variants; set variants.NAME.init.rows")
        for name, variant in self.variants.items():
            if variant.preprocessing.kind == "auto":
                raise ValueError(f"variants.{name}: the lab cannot choose a preprocessing; name one instead of auto")
            if variant.learning_rates is not None:
                raise ValueError(f"variants.{name}.learning_rates: use the key learning_rate of the experiment")
        return self


class TrainingExperiment(Trainings):
    """Trains SAEs and follows death by cause, threshold, bias, reconstruction and recovered features over the steps.

    SAEs of one seed whose data differ only in scale and offset, and that share a job, train on one stream.
    """

    kind: Literal["training"]
    record_every: Count = 500
    """Steps between records."""
    per_latent: bool = False
    """Keep a record for each latent and step (its largest pre-activation) instead of rates. Set `seeds: 1` with it,
    because the latents of different seeds have nothing in common."""


class RecoveryExperiment(Trainings):
    """Trains SAEs until the bias holds 99 % of the mean and ReLU-death is below 5 %, and keeps when each happened.

    `steps` is the limit after which a training is given up; what has not happened by then has no value in the table.
    """

    kind: Literal["recovery"]


def _generator(data: Any) -> str:
    """Names the generator that the keys of `data` belong to."""
    keys = data if isinstance(data, dict) else dict(data) if isinstance(data, Section) else {}
    return "stored" if "store" in keys else "benchmark" if "edition" in keys else "synthetic"


AnyGrid = Annotated[
    Annotated[SyntheticGrid, Tag("synthetic")]
    | Annotated[BenchmarkGrid, Tag("benchmark")]
    | Annotated[StoredGrid, Tag("stored")],
    Discriminator(_generator),
]


def _has_own_architecture(variant: VariantConfig) -> bool:
    """Checks whether a variant names another architecture than the default, which stands for all of an experiment's."""
    return variant.architecture != TopK()


class RemedyExperiment(Trainings):
    """Trains SAEs with every remedy, and compares them at the end: death by cause, error, recovered features.

    The remedies of one seed read the same batches. The learning rate of each remedy is the one with the least error on
    held-out tokens of its own; all other measures are of other held-out tokens. Table `remedies` has each remedy's
    differences from those of `compare_with`, paired by seed.
    """

    kind: Literal["remedies"]
    data: AnyGrid  # type: ignore[reportIncompatibleVariableOverride]
    """Activations: keys of the paper's data; with `edition`, those of the benchmark; with `store`, a layer of a real
    model. Every key may be a list, which becomes an axis of the grid."""
    architectures: Annotated[dict[Name, ArchitectureConfig], Field(min_length=1)] = {"topk": TopK()}
    """Architectures, under names of your choice. Every variant is trained with each of them that it can be combined
    with (docs/training.md). A variant with an architecture of its own (other than `topk`) is trained once, in place of
    the first."""
    compare_with: Annotated[tuple[Name, ...], Field(min_length=1)] = ("none", "center_median")
    """Variants that all others are compared with; the last one decides the verdict."""

    def own_axes(self) -> dict[str, tuple[Any, ...]]:
        """Returns learning rates, batch sizes and the names of the architectures and the variants."""
        *others, variant = super().own_axes().items()
        return dict([*others, ("architecture", tuple(self.architectures)), variant])

    def cells(self) -> Iterator[Cell]:
        """Yields the cells of the grid whose variant can be combined with their architecture."""
        first = next(iter(self.architectures))
        for cell in super().cells():
            own = _has_own_architecture(self.variants[cell.settings["variant"]])
            if cell.settings["architecture"] == first if own else self._combined(cell.settings) is not None:
                yield cell

    def variant_of(self, settings: Coordinates) -> VariantConfig:
        """Returns the way to train at these coordinates: the variant, with the architecture unless it has its own."""
        found = self._combined(settings)
        assert found is not None  # other cells are not yielded
        return found

    def _combined(self, settings: Coordinates) -> VariantConfig | None:
        variant = self.variants[settings["variant"]]
        if _has_own_architecture(variant):
            return variant
        try:
            chosen = {"architecture": self.architectures[settings["architecture"]]}
            return VariantConfig.model_validate(dict(variant) | chosen)
        except ValidationError:
            return None

    def deciding(self, cell: Cell) -> dict[str, Any]:
        """Returns the settings that can change the results of a cell, as JSON."""
        shared = super().deciding(cell)
        return {name: value for name, value in shared.items() if name not in ("architectures", "compare_with")}

    @model_validator(mode="after")
    def _compares_with_variants(self) -> Self:
        for name in self.compare_with:
            if name not in self.variants:
                raise ValueError(f"compare_with: {name} is no variant; should be among {', '.join(self.variants)}")
        return self


ExperimentConfig = Annotated[
    InitDeathExperiment | GradientExperiment | TrainingExperiment | RecoveryExperiment | RemedyExperiment,
    Field(discriminator="kind"),
]
