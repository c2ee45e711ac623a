"""What the earlier stages left: read and checked, with every missing or unusable result stated as a gap."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from saelib.config import Config
from saelib.errors import UserError
from saelib.files import read_json


class Part(BaseModel):
    """The fields that the report reads; others may stand beside them."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="ignore")


class Result(Part):
    """A result file."""

    key: str


class LayerStats(Result):
    """`stats/{model}/layer_{i}.json`."""

    tokens: int
    d_in: int
    gamma: float | None
    gamma_raw: float | None
    gamma_unit: float | None
    norm_ratio: float | None
    effective_rank: float | None
    effective_rank_fraction: float | None
    excess_kurtosis: float | None
    warnings: tuple[str, ...] = ()


class Rate(Part):
    """A dead fraction over the seeds of a randomly initialised dictionary."""

    mean: float
    sd: float
    per_seed: Annotated[tuple[float, ...], Field(min_length=1)]


class PreprocessingDeath(Part):
    """Death at initialisation under one preprocessing."""

    dead_relu: Rate
    dead_total: Rate


class InitDeath(Result):
    """`init_death/{model}/layer_{i}.json`."""

    preprocessings: dict[str, PreprocessingDeath]


class Prediction(Part):
    """A row of `theory/predictions.json`."""

    model: str
    layer: int
    dead_relu: float
    dead_total: float


class Predictions(Result):
    """`theory/predictions.json`."""

    rows: tuple[Prediction, ...]


class Run(Part):
    """A learning rate of a sweep; a run that diverged may lack its measures."""

    learning_rate: float
    status: Literal["ok", "diverged"]
    mse: float | None = None
    normalized_mse: float | None = None
    variance_explained: float | None = None
    l0: float | None = None
    dead_relu: float | None = None
    dead_topk_only: float | None = None
    dead_total: float | None = None


class Option(Part):
    """A choice of a variant, by its name."""

    kind: str


class Options(Part):
    """The variant of a sweep, as it was trained."""

    preprocessing: Option
    architecture: Option
    revival: Option


class Sweep(Result):
    """`train/{model}/layer_{i}/{variant}/sweep.json`."""

    d_in: int
    d_sae: int
    k: int
    steps: int
    options: Options
    preprocessing_reason: str | None
    """Why the preprocessing is this one, where the suite says `auto`."""
    path: str
    """What computed the steps; it decides their last bits."""
    best_learning_rate: float | None
    runs: tuple[Run, ...]

    @property
    def best(self) -> Run | None:
        """The run at the best learning rate; None where every run diverged."""
        finished = [run for run in self.runs if run.status == "ok" and run.learning_rate == self.best_learning_rate]
        return finished[0] if finished else None


class Place(NamedTuple):
    """What a result is about."""

    model: str
    layer: int
    variant: str = ""
    """Of training; empty for the stages that have none."""


@dataclass(frozen=True)
class Gap:
    """A result that the suite asks for and that is not in the tables."""

    stage: str
    place: Place | None
    """None: every layer."""
    reason: str


@dataclass(frozen=True)
class Results:
    """Every result of a suite that could be read, and those that could not."""

    stats: dict[Place, LayerStats]
    init_death: dict[Place, InitDeath]
    predictions: dict[Place, Prediction]
    sweeps: dict[Place, Sweep]
    gaps: list[Gap]


AnyResult = TypeVar("AnyResult", bound=Result)


def wanted_layers(config: Config) -> list[Place]:
    """Every layer of the suite, in the order of the config."""
    return [Place(name, layer) for name, model in config.models.items() for layer in model.layers]


def wanted_saes(config: Config) -> list[Place]:
    """Every training of the suite: each variant on each model's representative layer."""
    return [
        Place(name, model.representative_layer, variant)
        for name, model in config.models.items()
        if model.representative_layer is not None
        for variant in config.train.variants
    ]


def read_results(config: Config) -> Results:
    """Read what the suite asks for. Nothing missing or broken raises: it becomes a gap with its reason."""
    gaps: list[Gap] = []
    layers = wanted_layers(config)
    results = Results(
        stats=_read_all(LayerStats, "stats", {p: config.stats_path(p.model, p.layer) for p in layers}, gaps),
        init_death=_read_all(
            InitDeath, "init_death", {p: config.init_death_path(p.model, p.layer) for p in layers}, gaps
        ),
        predictions=_read_predictions(config.theory_path(), gaps),
        sweeps=_read_all(Sweep, "train", {p: config.train_path(*p) / "sweep.json" for p in wanted_saes(config)}, gaps),
        gaps=gaps,
    )
    if results.predictions:
        unpredicted = [place for place in results.stats if place not in results.predictions]
        gaps.extend(Gap("theory", place, "predictions.json has no row for this layer") for place in unpredicted)
    for place in [place for place, sweep in results.sweeps.items() if sweep.best is None]:
        gaps.append(Gap("train", place, f"all {len(results.sweeps.pop(place).runs)} learning rates diverged"))
    return results


def read_landscape(config: Config, place: Place) -> tuple[NDArray[np.floating], NDArray[np.floating]] | None:
    """Mean and standard deviation of each dimension after LayerNorm, both [d_in]; None where they cannot be read."""
    path = config.stats_path(place.model, place.layer).with_suffix(".safetensors")
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("ln_mean"), file.get_tensor("ln_std")
    except (OSError, SafetensorError):
        return None


def _read_all(kind: type[AnyResult], stage: str, paths: dict[Place, Path], gaps: list[Gap]) -> dict[Place, AnyResult]:
    found: dict[Place, AnyResult] = {}
    for place, path in paths.items():
        try:
            found[place] = _read(kind, path)
        except UserError as error:
            gaps.append(Gap(stage, place, str(error)))
    return found


def _read_predictions(path: Path, gaps: list[Gap]) -> dict[Place, Prediction]:
    try:
        rows = _read(Predictions, path).rows
    except UserError as error:
        gaps.append(Gap("theory", None, str(error)))
        return {}
    return {Place(row.model, row.layer): row for row in rows}


def _read(kind: type[AnyResult], path: Path) -> AnyResult:
    """Raises `UserError` that names the file but not its folder: the page may travel to other machines."""
    if not path.exists():
        raise UserError("no result")
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path.name}: {key or 'content'}: {first['msg']}") from None
    except UserError:
        raise UserError(f"{path.name}: not valid JSON") from None
