"""`saelib plan`: shows what a suite will need, what is missing, and which results are stale."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from saelib.cli.show import show_rows, show_values
from saelib.cli.suite import DEFAULT, Configfile

if TYPE_CHECKING:
    from saelib.config import Config
    from saelib.pipeline.needs import ModelNeeds
    from saelib.pipeline.plan import Plan
    from saelib.pipeline.targets import Target

plan_app = typer.Typer()

MOST_PLACES = 4
"""Most models that one line names; the others are counted."""


@plan_app.command()
def plan(
    configfile: Configfile = DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what each model of a suite will need, what is missing, and which results are stale and why.

    Nothing is downloaded and no model is loaded. Sizes come from `width` and `parameters` in the config, or from a
    model's config.json or GGUF file on this machine. `saelib fetch` downloads files, `snakemake -n` lists the jobs.

    Example: saelib plan --configfile configs/paper.yaml
    """
    from dataclasses import asdict

    from saelib.config import load_config
    from saelib.pipeline.needs import free_bytes, suite_needs
    from saelib.pipeline.plan import make_plan

    config = load_config(*configfile)
    needs = suite_needs(config)
    planned = make_plan(config)
    total = sum(one.bytes or 0 for one in needs)
    free = free_bytes(config.results)
    if json:
        stale = [_place(target) | {"path": target.path, "reasons": why} for target, why in planned.stale]
        values = {"models": [asdict(one) for one in needs], "bytes": total, "free_bytes": free}
        show_values(values | {"stale": stale, "seconds_left": _seconds_left(planned)[0]}, json)
        return
    if needs:
        _show_needs(config, needs, total, free)
    typer.echo("\n".join(["", *_stale_in_words(planned)]))


def _show_needs(config: "Config", needs: "list[ModelNeeds]", total: int, free: int) -> None:
    """Prints a table of the models' needs, what is missing, and notes."""
    show_rows(
        [
            {
                "model": one.name,
                "family": one.family,
                "layers": one.layers,
                "stale": one.stale_layers,
                "forward passes": one.forward_passes,
                **({"of training": one.training_passes} if any(other.streamed_tokens for other in needs) else {}),
                "disk": _size(one.bytes),
                "GPU memory": _size(one.gpu_bytes),
                "missing": str(len(one.missing) or ""),
            }
            for one in needs
        ],
        False,
    )
    at_least = "at least " if any(one.bytes is None for one in needs) else ""
    models, layers = _counted(len(needs), "model"), _counted(sum(one.layers for one in needs), "layer")
    typer.echo(
        f"\n{models}, {layers}, {needs[0].tokens:,} tokens each. "
        f"Stores: {at_least}{_size(total)} (twice that for layers that float16 cannot hold), "
        f"free in {config.results}: {_size(free)}. A forward pass is one batch of full-length examples."
    )
    for title, attribute in (("Missing", "missing"), ("Notes", "notes")):
        about: dict[str, list[str]] = {}
        for one in needs:
            for text in getattr(one, attribute):
                about.setdefault(text, []).append(one.name)
        if about:
            typer.echo("\n".join([f"\n{title}:", *(f"  {text} ({', '.join(who)})" for text, who in about.items())]))


def _stale_in_words(planned: "Plan") -> "Iterator[str]":
    """Lists the results that the next run computes and why, one line per stage and reason."""
    from saelib.pipeline.reasons import in_short
    from saelib.pipeline.time_left import in_words

    if not planned.stale:
        yield f"All {planned.fresh:,} results are up to date: a run has nothing to do."
        return
    time = in_words(*_seconds_left(planned))
    yield f"Stale: {len(planned.stale):,} of {planned.fresh + len(planned.stale):,} results, {time} on this machine"
    groups: dict[tuple[str, str], list[Target]] = {}
    for target, why in planned.stale:
        groups.setdefault((target.stage, in_short(why)), []).append(target)
    for (stage, why), targets in groups.items():
        yield f"  {stage:<10}  {_places(targets)}{why}"


def _places(targets: "list[Target]") -> str:
    """Names what results are about, such as 'gpt2 1-11, esm2 3: '; returns '' for those of the whole suite."""
    from saelib.config.sites import Layer, names

    layers: dict[str, set[Layer]] = {}
    for target in targets:
        if target.model:
            name = f"{target.model} {target.variant}".strip()
            layers.setdefault(name, set()).add(target.layer)
    cells = Counter(target.experiment for target in targets if target.experiment)
    if cells:
        return f"{', '.join(f'{name} ({count} cells)' for name, count in cells.items())}: "
    if not layers:
        return ""
    shown = [f"{name} {names(numbers)}" for name, numbers in list(layers.items())[:MOST_PLACES]]
    more = [f"{len(layers) - MOST_PLACES} more"] if len(layers) > MOST_PLACES else []
    return f"{', '.join(shown + more)}: "


def _place(target: "Target") -> dict[str, object]:
    """Returns a result's stage and what it is about for programs, None for anything that it does not have."""
    from saelib.config.sites import number_of, site_of

    layer, site = (number_of(target.layer), site_of(target.layer)) if target.model else (None, None)
    model, variant = target.model or None, target.variant or None
    place: dict[str, object] = {"stage": target.stage, "model": model, "layer": layer, "site": site, "variant": variant}
    return place | ({"experiment": target.experiment, "cell": target.cell} if target.experiment else {})


def _seconds_left(planned: "Plan") -> tuple[float, bool]:
    """Estimates the seconds of a run on all CPUs of this machine, and whether jobs that have ended tell."""
    from saelib.environments import available_cpus
    from saelib.pipeline.time_left import Forecast, earlier_seconds

    forecast = Forecast(planned.config, planned.jobs, earlier_seconds(planned.config.results))
    return forecast.seconds_left(available_cpus()), forecast.measured


def _counted(number: int, noun: str) -> str:
    """Puts a number before a noun: '1 layer', '12 layers'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(count: int | None) -> str:
    """Formats bytes for people."""
    if count is None:
        return "?"
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
