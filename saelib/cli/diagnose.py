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
    """The SAE that is planned; as `saelib.diagnosis.diagnose.Architecture`, which is not imported for a help text."""

    TOPK = "topk"
    BATCHTOPK = "batchtopk"
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


@diagnose_app.command()
def diagnose(
    source: Annotated[str | None, typer.Argument(help="Activations, of any file or store that 'saelib stats' reads.",
                                                 show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Instead of a file: a folder with a checkpoint, a name on the hub, "
                                                   "or a model of the suite --configfile.")] = None,
    layer: Annotated[str | None, typer.Option("--layer", "--layers", help="Of the model: 12, or several in one pass: "
                                                                          "1-11, 1-, all.")] = None,
    text: Annotated[Path | None, typer.Option(help="Documents for the model: .txt, .jsonl, .parquet, or a "
                                                 "folder.")] = None,
    fasta: Annotated[Path | None, typer.Option(help="Sequences for the model.")] = None,
    images: Annotated[Path | None, typer.Option(help="A folder of images for the model.")] = None,
    family: Annotated[str | None, typer.Option(help="How the checkpoint is loaded (docs/models.md); guessed from the "
                                                    "files and the data where absent.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Tokens that the model reads at once.")] = None,
    configfile: Annotated[Path, typer.Option(help="A suite whose models --model may name.")] = DEFAULT,
    sae: Annotated[str | None, typer.Option(help="An SAE that came out wrong: a file of saelib, or a folder of "
                                                  "SAELens, dictionary_learning or sparsify.")] = None,
    d_sae: Annotated[int, typer.Option(min=1, help="Latents of the SAE that is planned.")] = 8192,
    k: Annotated[int, typer.Option(min=1, help="Latents that fire for a token.")] = 64,
    tokens: Annotated[int, typer.Option(min=2, help="The most rows to read, evenly spread.")] = 100_000,
    architecture: Annotated[Architecture, typer.Option(help="Of the SAE that is planned.")] = Architecture.TOPK,
    dictionaries: Annotated[int, typer.Option(min=1, help="Random dictionaries to count dead latents with.")] = 1,
    library: Annotated[Library, typer.Option(help="Whose lines to print.")] = Library.TORCH,
    workers: Annotated[int | None, typer.Option(min=1, help="CPUs to use; all where absent.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
    fill_missing_chunks: FillMissingChunks = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a screen.")] = False,
) -> None:  # fmt: skip
    """Will an SAE on this layer have dead latents, why, and what should be done?

    Measures gamma, effective rank and who carries the mean; predicts and counts the latents that an untrained SAE of
    this size leaves dead, under each preprocessing; and recommends the least invasive one that works, with the lines
    that apply it in the library you train with.

    \b
    saelib diagnose acts.npy --d-sae 8192 --k 64
    saelib diagnose --model gpt2 --layers 1-11 --text corpus.txt
    saelib diagnose --model ./esm2 --layer 24 --fasta proteins.fasta
    saelib diagnose acts.npy --sae downloads/layers.5
    """
    from saelib.cli.watch import log_to_stderr
    from saelib.diagnosis.card import write_page
    from saelib.diagnosis.diagnose import Question

    log_to_stderr()
    question = Question(d_sae, k, tokens, architecture.value, dictionaries)
    if (source is None) == (model is None):
        raise UserError("name activations, or a model by --model: one of the two")
    if model is None:
        from saelib.activations.open import open_rows

        wanted = {name: value for name, value in (("--layer", layer), ("--text", text), ("--fasta", fasta)) if value}
        if wanted or images:
            raise UserError(f"{', '.join(wanted) or '--images'}: goes with --model, not with a file of activations")
        assert source is not None
        opened = [open_rows(source, fill_missing_chunks)]
    else:
        from saelib.diagnosis.from_model import ModelQuestion

        if layer is None:
            raise UserError("--model needs --layer: 12, 1-11, 1- or all")
        opened = _of_model(ModelQuestion(model, layer, text, fasta, images, family, configfile, max_length), tokens)
    found = [_diagnose(rows, question, sae, workers) for rows in opened]
    if source is not None:
        found = [replace(found[0], name=source)]  # a store's rows have a name that is no path
    if html is not None:
        write_page(found, html)
    if json:
        values = [one.to_dict() for one in found]
        print(json_format.dumps(values[0] if len(values) == 1 else values, allow_nan=False, indent=1))
        return
    _print(found, library.value)
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


def _diagnose(rows: "Rows", question: "Question", sae: str | None, workers: int | None) -> "Diagnosis":
    from saelib.diagnosis.diagnose import diagnose_rows

    saved = None
    if sae is not None:
        from saelib.interchange.collection import load_any

        saved, _ = load_any(sae)
    with _watched(rows.name, min(rows.shape[0], question.tokens), rows.shape[1], question) as watch:
        return diagnose_rows(rows, question, saved, workers, watch)


@contextmanager
def _watched(name: str, tokens: int, d_in: int, question: "Question") -> Iterator[Any]:
    """Progress over all stages, in units of work that take about the same time each."""
    import logging

    from saelib.cli.watch import WatchedRows
    from saelib.diagnosis.diagnose import operations
    from saelib.progress import progress

    log = logging.getLogger("saelib.diagnosis")
    log.setLevel(logging.INFO)
    expected = operations(d_in, question)
    unit = sum(expected.values()) * tokens / 1000
    with progress(f"diagnose {name}", 1000, "‰", log) as advance:

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
            advance(1000)
