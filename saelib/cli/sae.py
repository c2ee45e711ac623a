"""Commands about one SAE: measure it, and exchange it with other libraries."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saelib.cli.show import FillMissingChunks, show_values


class Library(StrEnum):
    """Whose format; `saelib.interchange.FORMATS` by name, which is not imported for a help text."""

    SAELENS = "saelens"
    DICTIONARY_LEARNING = "dictionary_learning"
    SPARSIFY = "sparsify"


sae_app = typer.Typer()
Ours = Annotated[Path, typer.Argument(help="An SAE as saelib keeps it: weights.safetensors of a variant.")]
Tokens = Annotated[
    int | None, typer.Option(min=1, help="Measure on this many rows, from the first; by default on all.")
]


@sae_app.command()
def evaluate(
    sae: Ours,
    rows: Annotated[str, typer.Argument(help="Activations of the layer it was trained on: anything that 'saelib stats' "
                                             "reads. FILE::NAME where it holds several arrays.")],
    tokens: Tokens = None,
    fill_missing_chunks: FillMissingChunks = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:  # fmt: skip
    """Measure death by cause, L0, error and variance explained of an SAE on your own activations.

    Of a store the held-out rows are measured, which no SAE that was trained on the store has seen; STORE::train names
    the others. Of any other file it cannot be known whether the SAE was trained on its rows: on those it was trained
    on, it looks better than it is.

    dead_relu: latents never above 0 before the selection. dead_topk_only: above 0, and never selected (or never
    above their threshold). dead_total: both. Variance is explained about the mean of the rows: about 0, a large mean
    would make any SAE look excellent. token_fvu: of each token's own squared error over its own squared distance to the
    geometric median, what a few massive tokens cannot decide. An SAE of another library: saelib import first.

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
    to: Annotated[Library, typer.Option(help="The library that is to load it.")],
) -> None:
    """Write an SAE as another library loads it, its preprocessing folded into the weights.

    \b
    saelens              every SAE; BatchTopK becomes JumpReLU
                         load it with SAE.load_from_disk(FOLDER)
    dictionary_learning  every SAE without a token norm
                         load it with utils.load_dictionary(FOLDER, "cpu")
    sparsify             TopK without a token norm
                         load it with SparseCoder.load_from_disk(FOLDER)

    A token norm (LayerNorm, rescaling) divides each token by a number of its own, which no weights can do.

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
    """Read an SAE of another library into a file that `saelib evaluate` and `saelib export` take.

    \b
    saelens              cfg.json, sae_weights.safetensors
                         standard, topk and jumprelu
    dictionary_learning  config.json, ae.pt (nothing in it is run)
                         all classes but GatedAutoEncoder
    sparsify             cfg.json, sae.safetensors
                         TopK

    A setting or a tensor that changes what is computed, and is not understood, is refused by name.

    Example: saelib import downloads/layers.5 sae.safetensors
    """
    from saelib.interchange import check_output, import_sae
    from saelib.sae.file import save_sae

    check_output(out)
    saved = import_sae(folder, from_.value if from_ else None)
    save_sae(saved, out)
    sae = saved.sae
    typer.echo(f"{out}: {sae.architecture}, d_in {sae.d_in}, d_sae {sae.d_sae}" + (f", k {sae.k}" if sae.k else ""))
