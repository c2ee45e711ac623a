"""What the earlier stages left: read and checked, with every missing or unusable result stated as a gap."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from saelib.config import Config
from saelib.config.schema import compact
from saelib.errors import UserError
from saelib.files.sealed import read_json
from saelib.pipeline.failures import Failures
from saelib.report.schema import InitDeath, LayerStats, Prediction, Predictions, Result, Sweep
from saelib.stats import load_arrays

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """What a result is about."""

    model: str
    layer: int
    variant: str = ""
    """Of training; empty for the stages that have none."""

    def __str__(self) -> str:
        """As messages call it: 'gpt2 layer 3, auxk'."""
        return where(self.model, self.variant, [self.layer])


def where(model: str, variant: str, layers: Sequence[int]) -> str:
    """Layers of a model, of one variant where it is not empty: 'gpt2 layer 1-3, auxk'."""
    place = f"{model} layer {compact(tuple(sorted(layers)))}" if layers else model
    return f"{place}, {variant}" if variant else place


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
NO_FAILURES: Failures = MappingProxyType({})


def wanted_layers(config: Config) -> list[Place]:
    """Every layer of the suite, in the order of the config."""
    return [Place(name, layer) for name, model in config.models.items() for layer in model.layers]


def wanted_saes(config: Config) -> list[Place]:
    """Every training of the suite: each variant on each of the layers that SAEs are trained on."""
    return [
        Place(name, layer, variant)
        for name, model in config.models.items()
        for layer in model.trained_layers
        for variant in config.train.variants
    ]


def read_results(config: Config, failures: Failures = NO_FAILURES) -> Results:
    """Read what the suite asks for. Nothing missing or broken raises: it becomes a gap with its reason.

    `failures`: results that this run could not make. An older one may lie in their place, and is left out.
    """
    gaps: list[Gap] = []
    layers = wanted_layers(config)
    stats = {p: config.stats_path(p.model, p.layer) for p in layers}
    death = {p: config.init_death_path(p.model, p.layer) for p in layers}
    sweeps = {p: config.train_path(*p) / "sweep.json" for p in wanted_saes(config)}
    results = Results(
        stats=_read_all(LayerStats, "stats", stats, failures, gaps),
        init_death=_read_all(InitDeath, "init_death", death, failures, gaps),
        predictions=_read_predictions(config.theory_path(), gaps),
        sweeps=_read_all(Sweep, "train", sweeps, failures, gaps),
        gaps=gaps,
    )
    if results.predictions:
        unpredicted = [place for place in results.stats if place not in results.predictions]
        gaps.extend(Gap("theory", place, "predictions.json has no row for this layer") for place in unpredicted)
    for place in [place for place, sweep in results.sweeps.items() if sweep.best is None]:
        gaps.append(Gap("train", place, f"all {len(results.sweeps.pop(place).runs)} learning rates diverged"))
    gaps[:] = dict.fromkeys(gaps)  # one failure early in a layer's way leaves a gap at every later stage
    return results


def read_landscape(config: Config, place: Place) -> tuple[NDArray[np.floating], NDArray[np.floating]] | None:
    """Mean and standard deviation of each dimension after LayerNorm, both [d_in]; None where they cannot be read."""
    try:
        arrays = load_arrays(config.stats_path(place.model, place.layer))
    except UserError as error:
        log.warning("%s: no landscape: %s", place.model, error)
        return None
    return arrays["ln_mean"], arrays["ln_std"]


def _read_all(
    kind: type[AnyResult], stage: str, paths: dict[Place, Path], failures: Failures, gaps: list[Gap]
) -> dict[Place, AnyResult]:
    found: dict[Place, AnyResult] = {}
    for place, path in paths.items():
        failure = failures.get((stage, place.model, place.layer, place.variant))
        if failure:
            blamed = place if failure.stage == stage else Place(place.model, place.layer)
            gaps.append(Gap(failure.stage, blamed, failure.reason))
            continue
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
