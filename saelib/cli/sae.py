"""Defines the commands that evaluate one SAE, export it and import it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saelib.cli.show import FillMissingChunks, show_values


class Library(StrEnum):
    """The names in `saelib.interchange.FORMATS`, which is not imported for a help text."""

    SAELENS = "saelens"
    DICTIONARY_LEARNING = "dictionary_learning"
    SPARSIFY = "sparsify"


sae_app = typer.Typer()
Ours = Annotated[Path, typer.Argument(help="An SAE in saelib's format: weights.safetensors of a variant.")]
Tokens = Annotated[
    int | None, typer.Option(min=1, help="Number of rows to measure on, from the first; all by default.")
]


@sae_app.command()
def evaluate(
    sae: Ours,
    rows: Annotated[str, typer.Argument(help="Activations of the layer it was trained on: anything that 'saelib stats' "
                                             "reads. FILE::NAME names one of several arrays in a file.")],
    tokens: Tokens = None,
    fill_missing_chunks: FillMissingChunks = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:  # fmt: skip
    """Measure an SAE's dead latents by cause, L0, error and variance explained on your own activations.

    If the rows are a store, its held-out ones are measured, on which no SAE was trained; STORE::train names the others.
    For any other file, saelib cannot know whether the SAE was trained on its rows. On rows that it was trained on, an
    SAE looks better than it is. Convert an SAE of another library with 'saelib import' first.

    dead_relu: latents that are never above 0 before the selection. dead_topk_only: latents that are above 0 but never
    selected, or never above their threshold. dead_total: both. variance_explained: relative to the variance about the
    mean of the rows, because about 0 a large mean would make any SAE look excellent. token_fvu: each token's squared
    error over its squared distance to the geometric median, so a few massive tokens cannot decide its median.

    Example: saelib evaluate sae.safetensors activations.npy --tokens 100000
    """
    from saelib.cli.watch import log_to_stderr
    from saelib.evaluation.measure import measure, open_measured
    from saelib.interchange import load_own

    log_to_stderr("saelib.activations.open")
    saved, measured = load_own(sae), open_measured(rows, fill_missing_chunks)
    found = measure(saved, measured.rows, tokens)
    available, d_in = measured.rows.shape
    sizes = {"tokens": min(tokens or available, available), "tokens_available": available}
    names = ("l0", "mse", "variance_explained", "token_fvu_median", "token_fvu_mean")
    names += ("dead_relu", "dead_topk_only", "dead_total")
    show_values(
        {"rows": measured.name, "split": measured.split, "note": measured.note, **sizes, "d_in": d_in}
        | {"d_sae": saved.sae.d_sae, **{name: getattr(found, name) for name in names}},
        json,
    )


@sae_app.command()
def export(
    sae: Ours,
    folder: Annotated[Path, typer.Argument(help="A new folder, or an earlier export, which is replaced.")],
    to: Annotated[Library, typer.Option(help="The library that will load it.")],
) -> None:
    """Write an SAE in another library's format, with its preprocessing folded into the weights.

    \b
    saelens              every SAE; BatchTopK becomes JumpReLU
                         load it with SAE.load_from_disk(FOLDER)
    dictionary_learning  every SAE without a token norm
                         load it with utils.load_dictionary(FOLDER, "cpu")
    sparsify             TopK without a token norm
                         load it with SparseCoder.load_from_disk(FOLDER)

    A token norm (LayerNorm, rescaling) divides each token by its own number, which weights cannot do.

    Example: saelib export sae.safetensors for_saelens --to saelens
    """
    from saelib.interchange import export_sae, load_own

    export_sae(load_own(sae), to.value, folder)
    typer.echo(f"{folder}: written for {to.value}")


@sae_app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="The folder that the other library saved one SAE to.")],
    out: Annotated[Path, typer.Argument(help="A .safetensors file to write.")],
    from_: Annotated[
        Library | None, typer.Option("--from", help="The library; by default it is recognized by its files.")
    ] = None,
) -> None:
    """Convert an SAE of another library to a file that `saelib evaluate` and `saelib export` read.

    \b
    saelens              cfg.json, sae_weights.safetensors
                         standard, topk and jumprelu
    dictionary_learning  config.json, ae.pt (nothing in it is run)
                         all classes but GatedAutoEncoder
    sparsify             cfg.json, sae.safetensors
                         TopK

    Settings and tensors that would change the SAE's outputs and are not supported are refused by name.

    Example: saelib import downloads/layers.5 sae.safetensors
    """
    from saelib.interchange import check_output, import_sae
    from saelib.sae.file import save_sae

    check_output(out)
    saved = import_sae(folder, from_.value if from_ else None)
    save_sae(saved, out)
    sae = saved.sae
    typer.echo(f"{out}: {sae.architecture}, d_in {sae.d_in}, d_sae {sae.d_sae}" + (f", k {sae.k}" if sae.k else ""))
