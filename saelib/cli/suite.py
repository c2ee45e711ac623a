"""Defines the commands `saelib redo`, `saelib fetch`, `saelib schema` and `saelib alphafold3-inputs`."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saelib.errors import UserError

if TYPE_CHECKING:
    from saelib.config import Config
    from saelib.config.sources import AlphaFold3Source
    from saelib.datasets import Example, Split

suite_app = typer.Typer()

Configfile = Annotated[
    list[Path],
    typer.Option(help="The suite's configuration file; if repeated, later ones add to earlier ones."),
]
DEFAULT = [Path("workflow_config.yaml")]


def names_of(configfile: list[Path]) -> str:
    """Names the configuration files in messages."""
    return " + ".join(map(str, configfile))


@suite_app.command()
def redo(
    stage: Annotated[
        str, typer.Argument(help="extract, stats, init_death, theory, train, evaluate, features, lab or report.")
    ],
    model: Annotated[list[str] | None, typer.Option(help="Remove only results of this model; may be repeated.")] = None,
    layers: Annotated[str | None, typer.Option(help="Remove only results of these layers, such as 3,5-7.")] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Remove only results of this site, such as mlp_out; may be repeated.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="Remove only trainings of this variant; may be repeated.")
    ] = None,
    experiment: Annotated[
        list[str] | None, typer.Option(help="Remove only results of this experiment of the lab; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the results that would be removed.")] = False,
    configfile: Configfile = DEFAULT,
) -> None:
    """Remove results of a stage and those that depend on them, so that the next run recomputes them.

    This is the only way to recompute a fresh result. Snakemake's --forceall and --forcerun do not, because keys decide.

    Example: saelib redo train --model gpt2 --layers 3,5-7
    """
    from saelib.config import load_config
    from saelib.pipeline.redo import chosen_targets
    from saelib.pipeline.workflow import claim

    config = load_config(*configfile)
    chosen = chosen_targets(config, stage, model or [], _layers(layers), variant or [], site or [], experiment or [])
    counts = Counter(target.stage for target in chosen)
    listed = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    if not chosen:
        typer.echo("None of these results exists; the next run computes them.")
    elif dry_run:
        typer.echo("\n".join([f"Would remove {len(chosen):,} results ({listed}):", *(f"  {t.path}" for t in chosen)]))
    else:
        with claim(config.results):
            # Dependent results go first, so a kill in between leaves no result without those it was computed from.
            for target in reversed(chosen):
                target.remove()
        typer.echo(f"Removed {len(chosen):,} results ({listed}). The next run recomputes them: snakemake --cores all")


def _layers(text: str | None) -> tuple[int, ...]:
    from saelib.config.layers import parse_layers

    try:
        return parse_layers(text.split(","), lambda: None) if text is not None else ()
    except ValueError:
        raise UserError(f"--layers: '{text}' names no layers; write them as 3,5-7") from None


@suite_app.command()
def fetch(configfile: Configfile = DEFAULT) -> None:
    """Download the weights and data of a suite into the cache, so that its jobs need no network.

    Files that cannot be fetched are listed at the end, one per line; all others are fetched.

    Example: saelib fetch --configfile configs/paper.yaml
    """
    from saelib.config import load_config
    from saelib.fetch import cache_folder, fetch_suite

    failed = fetch_suite(load_config(*configfile))
    if failed:
        raise UserError("\n  ".join([f"{names_of(configfile)}: {len(failed)} could not be fetched", *failed]))
    typer.echo(f"{names_of(configfile)}: all weights and data are in {cache_folder()}")


@suite_app.command()
def schema() -> None:
    """Print the JSON schema of a suite's configuration: every key with its type, default and description.

    Editors use it to complete and check YAML: put `# yaml-language-server: $schema=FILE` on the first line of a suite.

    Example: saelib schema > schema.json
    """
    from saelib.config.json_schema import schema_text

    typer.echo(schema_text(), nl=False)


@suite_app.command("alphafold3-inputs")
def alphafold3_inputs(
    model: Annotated[str, typer.Option(help="A model of the suite, of family alphafold3.")],
    configfile: Configfile = DEFAULT,
) -> None:
    """Write AlphaFold 3's input files (JSON) for every protein that extraction will read.

    They are needed only if `command` is not set, and you run AlphaFold 3 yourself.

    Example: saelib alphafold3-inputs --configfile configs/paper.yaml --model alphafold3
    """
    from saelib.config import load_config
    from saelib.config.sources import AlphaFold3Source
    from saelib.sources.alphafold3 import advice, write_inputs

    config = load_config(*configfile)
    source = config.models[model].source if model in config.models else None
    if not isinstance(source, AlphaFold3Source):
        names = [name for name, one in config.models.items() if one.source.family == "alphafold3"]
        raise UserError(
            f"{names_of(configfile)}: no model '{model}' of family alphafold3; there are: {', '.join(names) or 'none'}"
        )
    written = write_inputs(source, _proteins(config, model, source))
    typer.echo(advice(source, written, written) if written else f"All proteins have embeddings in {source.outputs}")


def _proteins(config: "Config", model: str, source: "AlphaFold3Source") -> "Iterator[Example]":
    """Yields the proteins that extraction will read: whole batches of each split until there are enough tokens."""
    from saelib.datasets import open_dataset

    dataset = open_dataset(config.datasets[config.models[model].dataset or ""])
    wanted: dict[Split, int] = {"train": config.extraction.tokens, "heldout": config.extraction.heldout_tokens}
    for split, tokens in wanted.items():
        examples = dataset.examples(split, config.seed, config.heldout_fraction)
        left = tokens
        while left > 0 and (batch := list(islice(examples, source.batch_size))):
            yield from batch
            left -= sum(len(one.content) for one in batch if len(one.content) <= source.max_length)
