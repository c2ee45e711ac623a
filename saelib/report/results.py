"""Read and check the results of the earlier stages; every missing or unusable one becomes a gap with its reason."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from saelib.config import Config
from saelib.config.sites import Layer, at_site, names, number_of, site_of
from saelib.errors import UserError
from saelib.evaluation.layer_result import LayerEvaluation, SAEEvaluation, load_layer
from saelib.init_death.result import InitDeath, load_result
from saelib.pipeline.failures import Failures
from saelib.stats.layer_stats import LayerStats, load_arrays, load_stats
from saelib.theory.result import LayerPrediction, load_predictions
from saelib.train.result import SweepResult, load_sweep

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """The layer, and the variant, that a result is about."""

    model: str
    layer: Layer
    variant: str = ""
    """The variant of a training; empty for the stages that have none."""

    def __str__(self) -> str:
        """Gives the name in messages: 'gpt2 layer 3, auxk'."""
        return where(self.model, self.variant, [self.layer])

    def columns(self) -> dict[str, int | str]:
        """Gives the place as columns of a table, or as JSON."""
        layer = {"layer": number_of(self.layer), "site": site_of(self.layer)}
        return {"model": self.model, **layer, "variant": self.variant}


def place_of(row: Mapping[str, Any]) -> Place:
    """Finds the place that a row of a table is about; one of `layers` has no variant."""
    return Place(row["model"], at_site(row["layer"], row["site"]), row.get("variant", ""))


def where(model: str, variant: str, layers: Sequence[Layer]) -> str:
    """Names the layers of a model, and the variant if there is one: 'gpt2 layer 1-3, auxk'."""
    place = f"{model} layer {names(layers)}" if layers else model
    return f"{place}, {variant}" if variant else place


@dataclass(frozen=True)
class Gap:
    """A result that the suite asks for but that is not in the tables."""

    stage: str
    place: Place | None
    """None: every layer."""
    reason: str


@dataclass(frozen=True)
class Results:
    """Every result of a suite that could be read, and those that could not."""

    stats: dict[Place, LayerStats]
    init_death: dict[Place, InitDeath]
    predictions: dict[Place, LayerPrediction]
    sweeps: dict[Place, SweepResult]
    gaps: list[Gap]
    evaluations: dict[Place, tuple[LayerEvaluation, list[SAEEvaluation]]] = field(default_factory=dict)
    """The evaluation of each layer and of each of its SAEs; empty unless the config asks for them."""


Result = TypeVar("Result")
NO_FAILURES: Failures = MappingProxyType({})


def wanted_layers(config: Config) -> list[Place]:
    """Lists every layer of the suite, in the order of the config."""
    return [Place(name, layer) for name, model in config.models.items() for layer in model.places]


def wanted_saes(config: Config) -> list[Place]:
    """Lists every training of the suite: each variant on each layer that SAEs are trained on."""
    return [
        Place(name, layer, variant)
        for name, model in config.models.items()
        for layer in model.trained_places
        for variant in config.train.variants
    ]


def read_results(config: Config, failures: Failures = NO_FAILURES) -> Results:
    """Reads every result that the suite asks for. One that is missing or broken raises nothing: it becomes a gap.

    Args:
        config: the suite.
        failures: results that this run could not compute. If an older result lies in such a place, it is left out.
    """
    gaps: list[Gap] = []
    layers = wanted_layers(config)
    stats = {p: config.stats_path(p.model, p.layer) for p in layers}
    death = {p: config.init_death_path(p.model, p.layer) for p in layers}
    sweeps = {p: config.train_path(*p) / "sweep.json" for p in wanted_saes(config)}
    evaluated = dict.fromkeys(Place(p.model, p.layer) for p in sweeps if config.evaluation)
    evaluations = {p: config.evaluation_path(p.model, p.layer) / "evaluation.json" for p in evaluated}
    results = Results(
        stats=_read_all("stats", load_stats, stats, failures, gaps),
        init_death=_read_all("init_death", load_result, death, failures, gaps),
        predictions=_read_predictions(config.theory_path(), gaps) if config.models else {},
        sweeps=_read_all("train", load_sweep, sweeps, failures, gaps),
        gaps=gaps,
        evaluations=_read_all("evaluate", load_layer, evaluations, failures, gaps),
    )
    if results.predictions:
        unpredicted = [place for place in results.stats if place not in results.predictions]
        gaps.extend(Gap("theory", place, "predictions.json has no row for this layer") for place in unpredicted)
    for place in [place for place, sweep in results.sweeps.items() if sweep.best is None]:
        gaps.append(Gap("train", place, f"all {len(results.sweeps.pop(place).runs)} learning rates diverged"))
    gaps[:] = dict.fromkeys(gaps)  # a failure at an early stage leaves the same gap at every later one
    return results


def read_landscape(config: Config, place: Place) -> tuple[NDArray[np.floating], NDArray[np.floating]] | None:
    """Reads each dimension's mean and standard deviation after LayerNorm, both [d_in]; None if that is impossible."""
    try:
        arrays = load_arrays(config.stats_path(place.model, place.layer))
    except UserError as error:
        log.warning("%s: no landscape: %s", place.model, error)
        return None
    return arrays["ln_mean"], arrays["ln_std"]


def _read_all(
    stage: str, load: Callable[[Path], Result], paths: dict[Place, Path], failures: Failures, gaps: list[Gap]
) -> dict[Place, Result]:
    found: dict[Place, Result] = {}
    for place, path in paths.items():
        failure = failures.get((stage, place.model, place.layer, place.variant))
        if failure:
            blamed = place if failure.stage == stage else Place(place.model, place.layer)
            gaps.append(Gap(failure.stage, blamed, failure.reason))
            continue
        try:
            found[place] = _read(load, path)
        except UserError as error:
            gaps.append(Gap(stage, place, str(error)))
    return found


def _read_predictions(path: Path, gaps: list[Gap]) -> dict[Place, LayerPrediction]:
    try:
        rows = _read(load_predictions, path)
    except UserError as error:
        gaps.append(Gap("theory", None, str(error)))
        return {}
    return {Place(row.model, at_site(row.layer, row.site)): row for row in rows}


def _read(load: Callable[[Path], Result], path: Path) -> Result:
    """Raises `UserError` that names the file but not its folder: the page may travel to other machines."""
    if not path.exists():
        raise UserError("no result")
    try:
        return load(path)
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from None
