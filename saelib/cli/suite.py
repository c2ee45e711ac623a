"""Commands about a whole suite: what it will need, and its files."""

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

suite_app = typer.Typer()

Configfile = Annotated[Path, typer.Option(help="The suite.")]
DEFAULT = Path("workflow_config.yaml")


@suite_app.command()
def plan(
    configfile: Configfile = DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What a suite will need: layers, forward passes, disk and GPU memory for each model, and what is missing.

    Nothing is downloaded and no model is loaded. Sizes come from `width` and `parameters` in the config.
    `saelib fetch` downloads; `snakemake -n` lists the jobs. Example: saelib plan --configfile configs/paper.yaml
    """
    from dataclasses import asdict

    from saelib.config import load_config
    from saelib.needs import free_bytes, suite_needs

    config = load_config(configfile)
    needs = suite_needs(config)
    total = sum(one.bytes or 0 for one in needs)
    free = free_bytes(config.results)
    if json:
        show_values({"models": [asdict(one) for one in needs], "bytes": total, "free_bytes": free}, json)
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
    typer.echo(
        f"\n{len(needs)} models, {sum(one.layers for one in needs)} layers, {needs[0].tokens:,} tokens each. "
        f"Stores: {_size(total)} (twice that for layers whose rows float16 does not keep), free in {config.results}: "
        f"{_size(free)}. A forward pass is one batch, at full length."
    )
    for title, attribute in (("Missing", "missing"), ("To know", "notes")):
        about: dict[str, list[str]] = {}
        for one in needs:
            for text in getattr(one, attribute):
                about.setdefault(text, []).append(one.name)
        if about:
            typer.echo("\n".join([f"\n{title}:", *(f"  {text} ({', '.join(who)})" for text, who in about.items())]))


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
