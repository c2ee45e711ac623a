"""Chooses results to remove, with all results computed from them, so that the next run recomputes them."""

from collections.abc import Callable, Sequence

from saelib.config import Config
from saelib.config.sites import SITES, compact, number_of, site_of
from saelib.errors import UserError
from saelib.pipeline.plan import READS, WHOLE_SUITE
from saelib.pipeline.targets import Target, present_keys, wanted_targets


def chosen_targets(
    config: Config,
    stage: str,
    models: Sequence[str] = (),
    layers: Sequence[int] = (),
    variants: Sequence[str] = (),
    sites: Sequence[str] = (),
    experiments: Sequence[str] = (),
) -> list[Target]:
    """Returns the existing results of a stage and those that depend on them, in the order of their dependencies.

    Args:
        config: The suite.
        stage: The name of the stage.
        models: Models to choose; all if empty.
        layers: Layers to choose; all if empty. Each must be a layer of one of the models.
        variants: Variants of training to choose; all if empty.
        sites: Sites of the layers to choose; all if empty.
        experiments: Experiments of the lab to choose; all if empty.

    Raises:
        UserError: If the suite has no such stage, model, layer, site, variant or experiment. The message lists those
            that it has.
    """
    if stage not in READS:
        raise UserError(f"no stage '{stage}'; there are: {', '.join(READS)}")
    if stage in WHOLE_SUITE and (models or layers or sites):
        raise UserError(f"stage '{stage}' has one result for the whole suite; remove --model, --layers and --site")
    if variants and stage not in ("train", "features"):
        raise UserError(f"stage '{stage}' has no variants, only 'train' and 'features' have; remove --variant")
    if experiments and stage != "lab":
        raise UserError(f"stage '{stage}' has no experiments, only 'lab' has; remove --experiment")
    if stage == "lab" and (models or layers or sites):
        raise UserError("stage 'lab' has experiments and no models; remove --model, --layers and --site")
    wanted = list(wanted_targets(config))
    own = [target for target in wanted if target.stage == stage]
    if not own:
        raise UserError(f"the suite has no results of stage '{stage}'")
    own = _only(own, "model", models, list(dict.fromkeys(t.model for t in own)))
    own = _only(own, "layer", layers, sorted({number_of(t.layer) for t in own}))
    present = {site_of(t.layer) for t in own}
    own = _only(own, "site", sites, [site for site in SITES if site in present])
    own = _only(own, "variant", variants, list(dict.fromkeys(t.variant for t in own)))
    own = _only(own, "experiment", experiments, list(dict.fromkeys(t.experiment for t in own)))
    picked = _with_dependents(own, wanted)
    return [target for target, key in zip(picked, present_keys(picked), strict=True) if key is not None]


def _only(targets: list[Target], what: str, asked: Sequence[int | str], there: Sequence[int | str]) -> list[Target]:
    """Returns the targets with one of the wanted values. Raises `UserError` for a value that none of them has."""
    unknown = [value for value in asked if value not in there]
    if unknown:
        choices = compact(tuple(map(int, there))) if what == "layer" else ", ".join(map(str, there))
        models = ", ".join(dict.fromkeys(target.model for target in targets))
        place = f"stage '{targets[0].stage}'" + (f" of {models}" if what not in ("model", "experiment") else "")
        raise UserError(f"{place}: no {what} {', '.join(map(str, unknown))}; there are: {choices}")
    return [target for target in targets if not asked or _VALUES[what](target) in asked]


_VALUES: dict[str, Callable[[Target], int | str]] = {
    "model": lambda target: target.model,
    "layer": lambda target: number_of(target.layer),
    "site": lambda target: site_of(target.layer),
    "variant": lambda target: target.variant,
    "experiment": lambda target: target.experiment,
}


def _with_dependents(own: list[Target], wanted: list[Target]) -> list[Target]:
    """Returns `own` and every wanted result that reads one of them, directly or indirectly."""
    touched = {(t.stage, t.model, t.layer) for t in own}
    stages = {t.stage for t in own}
    picked: list[Target] = []
    for target in wanted:  # each after those that it reads
        if target.stage in WHOLE_SUITE:
            depends = bool(stages.intersection(READS[target.stage]))
        else:
            depends = any((before, target.model, target.layer) in touched for before in READS[target.stage])
        if target in own or depends:
            picked.append(target)
            touched.add((target.stage, target.model, target.layer))
            stages.add(target.stage)
    return picked
