"""Commands about a whole suite: what it will need, and its files."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saelib.cli.show import show_rows, show_values
from saelib.errors import UserError

if TYPE_CHECKING:
    from saelib.config import Config
    from saelib.config.sources import AlphaFold3Source
    from saelib.datasets import Example, Split
    from saelib.pipeline.plan import Plan
    from saelib.pipeline.targets import Target

suite_app = typer.Typer()

Configfile = Annotated[Path, typer.Option(help="The suite.")]
DEFAULT = Path("workflow_config.yaml")
MOST_PLACES = 4
"""Models that a line names."""


@suite_app.command()
def plan(
    configfile: Configfile = DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What a suite will need, model by model; what is missing; and every result that is stale, and why.

    Nothing is downloaded and no model is loaded. Sizes come from `width` and `parameters` in the config;
    a width also from a model's config.json or GGUF file, where that is on this machine.
    `saelib fetch` downloads; `snakemake -n` lists the jobs. Example: saelib plan --configfile configs/paper.yaml
    """
    from dataclasses import asdict

    from saelib.config import load_config
    from saelib.pipeline.needs import free_bytes, suite_needs
    from saelib.pipeline.plan import make_plan

    config = load_config(configfile)
    needs = suite_needs(config)
    planned = make_plan(config)
    total = sum(one.bytes or 0 for one in needs)
    free = free_bytes(config.results)
    if json:
        stale = [_place(target) | {"path": target.path, "reasons": why} for target, why in planned.stale]
        values = {"models": [asdict(one) for one in needs], "bytes": total, "free_bytes": free}
        show_values(values | {"stale": stale, "seconds_left": _seconds_left(planned)}, json)
        return
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
        json,
    )
    at_least = "at least " if any(one.bytes is None for one in needs) else ""
    typer.echo(
        f"\n{len(needs)} models, {sum(one.layers for one in needs)} layers, {needs[0].tokens:,} tokens each. "
        f"Stores: {at_least}{_size(total)} (twice that for layers whose rows float16 does not keep), "
        f"free in {config.results}: {_size(free)}. A forward pass is one batch, at full length."
    )
    for title, attribute in (("Missing", "missing"), ("To know", "notes")):
        about: dict[str, list[str]] = {}
        for one in needs:
            for text in getattr(one, attribute):
                about.setdefault(text, []).append(one.name)
        if about:
            typer.echo("\n".join([f"\n{title}:", *(f"  {text} ({', '.join(who)})" for text, who in about.items())]))
    typer.echo("\n".join(["", *_stale_in_words(planned)]))


def _stale_in_words(planned: "Plan") -> "Iterator[str]":
    """What the next run makes, and why: a line for each stage and reason."""
    from saelib.pipeline.reasons import in_short
    from saelib.pipeline.time_left import duration

    if not planned.stale:
        yield f"All {planned.fresh:,} results are up to date: a run has nothing to do."
        return
    seconds = _seconds_left(planned)
    time = f", {duration(seconds)} on this machine" if seconds is not None else ""
    yield f"Stale: {len(planned.stale):,} of {planned.fresh + len(planned.stale):,} results{time}"
    groups: dict[tuple[str, str], list[Target]] = {}
    for target, why in planned.stale:
        groups.setdefault((target.stage, in_short(why)), []).append(target)
    for (stage, why), targets in groups.items():
        yield f"  {stage:<10}  {_places(targets)}{why}"


def _places(targets: "list[Target]") -> str:
    """Models and layers of results, such as 'gpt2 1-11, esm2 3: '; nothing for those of the whole suite."""
    from saelib.config.schema import compact

    layers: dict[str, set[int]] = {}
    for target in targets:
        if target.model:
            name = f"{target.model} {target.variant}".strip()
            layers.setdefault(name, set()).add(target.layer)
    if not layers:
        return ""
    shown = [f"{name} {compact(tuple(sorted(numbers)))}" for name, numbers in list(layers.items())[:MOST_PLACES]]
    more = [f"{len(layers) - MOST_PLACES} more"] if len(layers) > MOST_PLACES else []
    return f"{', '.join(shown + more)}: "


def _place(target: "Target") -> dict[str, object]:
    """What a result is about, for programs; None where it is about the whole suite."""
    layer = target.layer if target.model else None
    return {"stage": target.stage, "model": target.model or None, "layer": layer, "variant": target.variant or None}


def _seconds_left(planned: "Plan") -> float | None:
    """Of a run on all processors of this machine; None where nothing has run yet that it could go by."""
    from saelib.pipeline.time_left import Forecast, earlier_seconds

    return Forecast(planned.config, planned.jobs, earlier_seconds(planned.config.results)).seconds_left(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


@suite_app.command()
def redo(
    stage: Annotated[str, typer.Argument(help="extract, stats, init_death, theory, train or report.")],
    model: Annotated[list[str] | None, typer.Option(help="Only of this model; may be given several times.")] = None,
    layers: Annotated[str | None, typer.Option(help="Only of these layers, such as 3,5-7.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Only this variant of training; may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    configfile: Configfile = DEFAULT,
) -> None:
    """Remove results of a stage and what depends on them, so that the next run makes them again.

    Nothing else makes a fresh result run again: Snakemake's --forceall and --forcerun do not, for keys decide.

    Example: saelib redo train --model gpt2 --layers 3,5-7
    """
    from saelib.config import load_config
    from saelib.pipeline.redo import chosen_targets
    from saelib.pipeline.workflow import claim

    config = load_config(configfile)
    chosen = chosen_targets(config, stage, model or [], _layers(layers), variant or [])
    counts = Counter(target.stage for target in chosen)
    listed = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    if not chosen:
        typer.echo("None of these results is there; the next run makes them.")
    elif dry_run:
        typer.echo("\n".join([f"Would remove {len(chosen):,} results ({listed}):", *(f"  {t.path}" for t in chosen)]))
    else:
        with claim(config.results):
            # What is made from others first: killed in between, this leaves nothing that was made from what is gone.
            for target in reversed(chosen):
                target.remove()
        typer.echo(f"Removed {len(chosen):,} results ({listed}). The next run makes them again: snakemake --cores all")


def _layers(text: str | None) -> tuple[int, ...]:
    from saelib.config.schema import parse_layers

    try:
        return parse_layers(text.split(","), lambda: None) if text is not None else ()
    except ValueError:
        raise UserError(f"--layers: '{text}' names no layers; write them as 3,5-7") from None


@suite_app.command()
def fetch(configfile: Configfile = DEFAULT) -> None:
    """Download the weights and data of a suite into the cache, so that its jobs need no network.

    What cannot be had is listed at the end, one line each, and the rest is fetched all the same.
    """
    from saelib.config import load_config
    from saelib.fetch import cache_folder, fetch_suite

    failed = fetch_suite(load_config(configfile))
    if failed:
        raise UserError("\n  ".join([f"{configfile}: {len(failed)} could not be fetched", *failed]))
    typer.echo(f"{configfile}: all weights and data are in {cache_folder()}")


@suite_app.command()
def schema() -> None:
    """Print the JSON schema of a suite's configuration: every key with its type, default and description.

    Editors complete and check YAML by it: put `# yaml-language-server: $schema=FILE` on the first line of a suite.

    Example: saelib schema > schema.json
    """
    from saelib.config.json_schema import schema_text

    typer.echo(schema_text(), nl=False)


@suite_app.command("alphafold3-inputs")
def alphafold3_inputs(
    model: Annotated[str, typer.Option(help="A model of the suite, of family alphafold3.")],
    configfile: Configfile = DEFAULT,
) -> None:
    """Write the JSON files that AlphaFold 3 is to run on, for every protein that extraction will ask for.

    Only needed where `command` is not set.
    Example: saelib alphafold3-inputs --configfile configs/paper.yaml --model alphafold3
    """
    from saelib.config import load_config
    from saelib.config.sources import AlphaFold3Source
    from saelib.sources.alphafold3 import advice, write_inputs

    config = load_config(configfile)
    source = config.models[model].source if model in config.models else None
    if not isinstance(source, AlphaFold3Source):
        names = [name for name, one in config.models.items() if one.source.family == "alphafold3"]
        raise UserError(
            f"{configfile}: no model '{model}' of family alphafold3; there are: {', '.join(names) or 'none'}"
        )
    written = write_inputs(source, _proteins(config, model, source))
    typer.echo(advice(source, written, written) if written else f"Every protein has its embeddings in {source.outputs}")


def _proteins(config: "Config", model: str, source: "AlphaFold3Source") -> "Iterator[Example]":
    """Those that extraction will read: in each split, whole batches until they give the tokens it wants."""
    from saelib.datasets import open_dataset

    dataset = open_dataset(config.datasets[config.models[model].dataset or ""])
    wanted: dict[Split, int] = {"train": config.extraction.tokens, "heldout": config.extraction.heldout_tokens}
    for split, tokens in wanted.items():
        examples = dataset.examples(split, config.seed, config.heldout_fraction)
        left = tokens
        while left > 0 and (batch := list(islice(examples, source.batch_size))):
            yield from batch
            left -= sum(len(one.content) for one in batch if len(one.content) <= source.max_length)


def _size(count: int | None) -> str:
    """Bytes as people say them."""
    if count is None:
        return "?"
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
