"""`saelib diagnose`: the answer in one minute."""

import json as json_format
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saelib.cli.show import FillMissingChunks
from saelib.errors import UserError

if TYPE_CHECKING:
    from saelib.activations.rows import Rows
    from saelib.diagnosis.diagnose import Question
    from saelib.diagnosis.from_model import ModelQuestion
    from saelib.diagnosis.result import Diagnosis

diagnose_app = typer.Typer()
DEFAULT = Path("workflow_config.yaml")


class Architecture(StrEnum):
    """The SAE that is planned; as `saelib.init_death.probed.Architecture`, which is not imported for a help text."""

    TOPK = "topk"
    BATCH_TOPK = "batch_topk"
    RELU = "relu"
    JUMPRELU = "jumprelu"


class Library(StrEnum):
    """Whose lines are printed; the keys of `saelib.diagnosis.remedies.LIBRARIES`."""

    TORCH = "torch"
    SAELIB = "saelib"
    SAELENS = "saelens"
    DICTIONARY_LEARNING = "dictionary_learning"
    SPARSIFY = "sparsify"
    SAEV = "saev"


Source = Annotated[
    str | None, typer.Argument(help="Activations: any file or store that 'saelib stats' reads.", show_default=False)
]
ModelName = Annotated[
    str | None,
    typer.Option(
        help="Instead of a file: a folder with a checkpoint, a name on the hub, or a model of the suite --configfile."
    ),
]
Layer = Annotated[
    str | None,
    typer.Option("--layer", "--layers", help="The model's layers: 12, or several in one pass: 1-11, 1-, all."),
]
Sites = Annotated[
    str, typer.Option("--site", "--sites", help="Places within a layer, by commas: residual, attention_out, mlp_out.")
]
TextFiles = Annotated[
    Path | None, typer.Option(help="Documents for the model: .txt, .jsonl, .parquet, or a folder of them.")
]
Fasta = Annotated[Path | None, typer.Option(help="Sequences for the model.")]
Images = Annotated[Path | None, typer.Option(help="A folder of images for the model.")]
Family = Annotated[
    str | None,
    typer.Option(help="Family that loads the checkpoint (docs/models.md). Without it, the files and the data tell."),
]
MaxLength = Annotated[int | None, typer.Option(min=1, help="Tokens that the model reads at once.")]
Configfile = Annotated[Path, typer.Option(help="A suite whose models --model may name.")]
GivenSAE = Annotated[
    str | None,
    typer.Option(
        help="An SAE that came out dead: a file of saelib, the folder of a trained variant, or anything "
        "that 'saelib import' takes."
    ),
]
DSae = Annotated[int, typer.Option(min=1, help="Latents of the SAE that is planned.")]
K = Annotated[int, typer.Option(min=1, help="Latents that fire for a token.")]
Tokens = Annotated[int, typer.Option(min=2, help="The most rows to read, evenly spread.")]
Planned = Annotated[Architecture, typer.Option(help="Architecture of the SAE that is planned.")]
Dictionaries = Annotated[int, typer.Option(min=1, help="Random dictionaries to count dead latents with.")]
Lines = Annotated[Library, typer.Option(help="Library whose lines are printed.")]
Workers = Annotated[int | None, typer.Option(min=1, help="CPUs to use; all of them without this option.")]
Device = Annotated[
    str, typer.Option(help="Device of the model, the statistics and the count: auto, cpu, cuda, or one GPU: cuda:1.")
]
Html = Annotated[Path | None, typer.Option(dir_okay=False, help="Page to write as well.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a screen.")]


@diagnose_app.command()
def diagnose(
    source: Source = None, model: ModelName = None, layer: Layer = None, site: Sites = "residual",
    text: TextFiles = None, fasta: Fasta = None, images: Images = None, family: Family = None,
    max_length: MaxLength = None, configfile: Configfile = DEFAULT, sae: GivenSAE = None, d_sae: DSae = 8192,
    k: K = 64, tokens: Tokens = 100_000, architecture: Planned = Architecture.TOPK,
    dictionaries: Dictionaries = 1, library: Lines = Library.TORCH, workers: Workers = None, device: Device = "auto",
    html: Html = None, fill_missing_chunks: FillMissingChunks = False, json: Json = False,
) -> None:  # fmt: skip
    """Will an SAE on this layer have dead latents, why, and what should be done?

    Measures gamma, effective rank and who carries the mean; predicts and counts the latents that an untrained SAE of
    this size leaves dead, under each preprocessing; and recommends the least invasive one that works, with the lines
    that apply it in the library you train with.

    \b
    saelib diagnose acts.npy --d-sae 8192 --k 64
    saelib diagnose --model gpt2 --layers 1-11 --text corpus.txt
    saelib diagnose --model ./vit --layer 12 --site residual,attention_out,mlp_out --images photos
    saelib diagnose --model ./esm2 --layer 24 --fasta proteins.fasta
    saelib diagnose acts.npy --sae downloads/layers.5
    """
    from saelib.cli.watch import log_to_stderr
    from saelib.diagnosis.device import usable_device
    from saelib.diagnosis.diagnose import Question

    log_to_stderr()
    computing = usable_device(device)
    question = Question(d_sae, k, tokens, architecture.value, dictionaries)
    of_a_model = {"--layer": layer, "--text": text, "--fasta": fasta, "--images": images, "--family": family}
    of_a_model |= {"--max-length": max_length, "--site": site if site != "residual" else None}
    if model is None:
        opened = [_of_file(source, [name for name, value in of_a_model.items() if value], fill_missing_chunks)]
    elif source is not None:
        raise UserError("name activations, or a model by --model: one of the two")
    else:
        from saelib.diagnosis.from_model import ModelQuestion

        if layer is None:
            raise UserError("--model needs --layer: 12, 1-11, 1- or all")
        asked = ModelQuestion(model, layer, text, fasta, images, family, configfile, max_length, site, device)
        opened = _of_model(asked, tokens)
    found = [_diagnose(rows, question, sae, workers, computing) for rows in opened]
    if source is not None:
        found = [replace(found[0], name=source)]  # a store's rows have a name that is no path
    _answer(found, library.value, html, json)


def _of_file(source: str | None, of_a_model: list[str], fill_missing_chunks: bool) -> "Rows":
    """Opens the file. Raises `UserError` if there is none, or options are given that only a model has."""
    from saelib.activations.open import open_rows

    if source is None:
        raise UserError("name activations, or a model by --model: one of the two")
    if of_a_model:
        raise UserError(f"{', '.join(of_a_model)}: goes with --model, not with a file of activations")
    return open_rows(source, fill_missing_chunks)


def _answer(found: "list[Diagnosis]", library: str, html: Path | None, json: bool) -> None:
    """Writes the page, and prints JSON or the screen."""
    from saelib.diagnosis.card import write_page

    if html is not None:
        write_page(found, html)
    if json:
        values = [one.to_dict() for one in found]
        print(json_format.dumps(values[0] if len(values) == 1 else values, allow_nan=False, indent=1))
        return
    _print(found, library)
    if html is not None:
        typer.echo(f"page: {html}", err=True)


def _print(found: "list[Diagnosis]", library: str) -> None:
    from rich.console import Console

    from saelib.diagnosis.screen import WIDTH, show, show_layers

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if len(found) == 1:
        show(found[0], console, library)
    else:
        show_layers(found, console)


def _of_model(question: "ModelQuestion", tokens: int) -> "list[Rows]":
    import logging

    from saelib.diagnosis.from_model import model_rows
    from saelib.progress import progress

    log = logging.getLogger("saelib.diagnosis")
    log.setLevel(logging.INFO)
    with progress(f"run {question.model}", tokens, "tokens", log) as advance:
        return list(model_rows(question, tokens, advance).values())


def _diagnose(rows: "Rows", question: "Question", sae: str | None, workers: int | None, device: str) -> "Diagnosis":
    from saelib.diagnosis.diagnose import diagnose_rows

    saved = None
    if sae is not None:
        from saelib.interchange.collection import load_any

        saved, _ = load_any(sae)
    with _watched(rows.name, min(rows.shape[0], question.tokens), rows.shape[1], question) as watch:
        return diagnose_rows(rows, question, saved, workers, watch, device)


@contextmanager
def _watched(name: str, tokens: int, d_in: int, question: "Question") -> Iterator[Any]:
    """Shows progress over all stages, in percent of the work, which take about the same time each."""
    import logging

    from saelib.cli.watch import WatchedRows
    from saelib.diagnosis.diagnose import operations
    from saelib.progress import progress

    log = logging.getLogger("saelib.diagnosis")
    log.setLevel(logging.INFO)
    expected = operations(d_in, question)
    unit = sum(expected.values()) * tokens / 100
    with progress(f"diagnose {name}", 100, "%", log) as advance:

        def watch(stage: str, rows: "Rows") -> "Rows":
            passes = 20 if stage == "statistics" else 2 if stage == "intervals" else 1
            share = expected[stage] / passes / unit
            carried = [0.0]

            def forward(amount: int, note: str = "") -> None:
                carried[0] += amount * share
                whole, carried[0] = int(carried[0]), carried[0] % 1
                if whole:
                    advance(whole, note or stage)

            return WatchedRows(rows, forward, passes * rows.shape[0])

        yield watch
        if sys.stderr.isatty():
            advance(100)
