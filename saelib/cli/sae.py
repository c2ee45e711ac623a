"""Defines the commands that evaluate one SAE, export it and import it."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saelib.cli.show import FillMissingChunks, show_values
from saelib.errors import UserError

if TYPE_CHECKING:
    from saelib.sae.file import SavedSAE


class Library(StrEnum):
    """The names in `saelib.interchange.FORMATS`, which is not imported for a help text."""

    SAELENS = "saelens"
    DICTIONARY_LEARNING = "dictionary_learning"
    SPARSIFY = "sparsify"


CORE = ("cossim", "l2_ratio", "relative_reconstruction_bias", "freq_over_1_percent")
"""Figures of `saelib.evaluation.core.CoreMetrics` that `measure` does not have."""

sae_app = typer.Typer()
Ours = Annotated[Path, typer.Argument(help="An SAE of saelib: its file, or the folder of a trained variant.")]
Tokens = Annotated[
    int | None, typer.Option(min=1, help="Number of rows to measure on, from the first; all by default.")
]


@sae_app.command()
def evaluate(
    sae: Annotated[str, typer.Argument(help="An SAE: a file of saelib, the folder of a trained variant, or anything "
                                            "that 'saelib import' takes.")],
    rows: Annotated[str, typer.Argument(help="Activations of the layer it was trained on: anything that 'saelib stats' "
                                             "reads. FILE::NAME names one of several arrays in a file.")],
    tokens: Tokens = None,
    fill_missing_chunks: FillMissingChunks = False,
    saebench: Annotated[Path | None, typer.Option(dir_okay=False, metavar="FILE",
                                                  help="Also write the figures in the layout of "
                                                  "SAEBench's result files.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:  # fmt: skip
    """Measure an SAE, ours or another library's, on your own activations: dead latents, L0, errors, dense latents.

    If the rows are a store, its held-out ones are measured, on which no SAE was trained; STORE::train names the others.
    For any other file, saelib cannot know whether the SAE was trained on its rows. On rows that it was trained on, an
    SAE looks better than it is.

    dead_relu: latents that are never above 0 before the selection. dead_topk_only: latents that are above 0 but never
    selected, or never above their threshold. dead_total: both. variance_explained: relative to the variance about the
    mean of the rows, because about 0 a large mean would make any SAE look excellent. token_fvu: each token's squared
    error over its squared distance to the geometric median, so a few massive tokens cannot decide its median.

    cossim, l2_ratio, relative_reconstruction_bias and freq_over_1_percent are SAEBench's. typical_...: the same without
    tokens that are more than ten times as long as the median one. firing_rates: latents in each half decade of their
    firing rate, from 1e-6 to 1, dead ones left out. docs/evaluation.md defines everything.

    Example: saelib evaluate sae.safetensors activations.npy --tokens 100000
    """
    from saelib.api.sae import LoadedSAE
    from saelib.cli.watch import log_to_stderr
    from saelib.evaluation.core import core_metrics
    from saelib.evaluation.measure import measure, open_measured
    from saelib.interchange.collection import load_any

    log_to_stderr("saelib.activations.open")
    (saved, name), measured = load_any(sae), open_measured(rows, fill_missing_chunks)
    found = measure(saved, measured.rows, tokens)
    core = core_metrics(measured.rows, LoadedSAE(saved, name), tokens)
    if saebench is not None:
        from saelib.evaluation.measures import core_figures
        from saelib.evaluation.saebench import saebench_result, write_saebench

        sizes = {"d_in": saved.sae.d_in, "d_sae": saved.sae.d_sae, "k": saved.sae.k}
        about = {"architecture": saved.sae.architecture, **sizes}
        write_saebench(saebench_result(core_figures(core.all), name, **about), saebench)
    available, d_in = measured.rows.shape
    sizes = {"tokens": min(tokens or available, available), "tokens_available": available}
    names = ("l0", "mse", "variance_explained", "token_fvu_median", "token_fvu_mean")
    names += ("dead_relu", "dead_topk_only", "dead_total")
    show_values(
        {"rows": measured.name, "split": measured.split, "note": measured.note, **sizes, "d_in": d_in}
        | {"d_sae": saved.sae.d_sae, **{name: getattr(found, name) for name in names}}
        | {name: getattr(core.all, name) for name in CORE}
        | {"typical_tokens": core.typical.tokens}
        | {f"typical_{name}": getattr(core.typical, name) for name in ("explained_variance", *CORE)}
        | {"firing_rates": core.all.histogram().counts.tolist()},
        json,
    )


@sae_app.command()
def export(
    sae: Ours,
    folder: Annotated[Path, typer.Argument(help="A new folder, or an earlier export, which is replaced.")],
    to: Annotated[Library, typer.Option(help="The library that is to load it.")],
    model_name: Annotated[str | None, typer.Option(help="The model, as on the hub or in TransformerLens.")] = None,
    hook_name: Annotated[str | None, typer.Option(help="Where the activations are in it, such as "
                                                       "blocks.5.hook_resid_post.")] = None,
    context_size: Annotated[int | None, typer.Option(min=1, help="Tokens that the model reads at once.")] = None,
    prepend_bos: Annotated[bool | None, typer.Option("--prepend-bos/--no-prepend-bos",
                                                     help="Whether each context begins with BOS.")] = None,
) -> None:  # fmt: skip
    """Write an SAE as another library loads it, its preprocessing folded into the weights.

    \b
    saelens              every SAE without a bypass; BatchTopK becomes JumpReLU
                         load it with SAE.load_from_disk(FOLDER)
    dictionary_learning  every SAE without a bypass or a token norm, but AbsTopK
                         load it with utils.load_dictionary(FOLDER, "cpu")
    sparsify             TopK without a bypass or a token norm
                         load it with SparseCoder.load_from_disk(FOLDER)

    A token norm (LayerNorm, rescaling) divides each token by its own number, which weights cannot do.

    Dashboards ask which model, hook point and context an SAE belongs to. Files of the suite know; the options add to
    what a file says, or replace it. For a hub of sparsify's, name FOLDER by the hook point: out/layers.5.

    Example: saelib export sae.safetensors for_saelens --to saelens
    """
    from dataclasses import replace

    from saelib.interchange import export_sae, load_own
    from saelib.sae.origin import Origin, origin_of, with_origin

    saved = load_own(sae)
    given = Origin(model_name, hook_name, context_size=context_size, prepend_bos=prepend_bos).known()
    origin = replace(origin_of(saved.about), **given)
    export_sae(replace(saved, about=with_origin(saved.about, origin)), to.value, folder)
    typer.echo(f"{folder}: written for {to.value}")


@sae_app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A folder; org/name or org/name@revision on the Hugging Face hub; or "
                                               "RELEASE::SAE_ID of SAELens. SOURCE::NAME picks one of several SAEs.")],
    out: Annotated[Path | None, typer.Argument(help="A .safetensors file to write; without it, the SAEs are "
                                                    "listed.")] = None,
    from_: Annotated[
        Library | None, typer.Option("--from", help="The library; by default it is recognized by its files.")
    ] = None,
    all_: Annotated[Path | None, typer.Option("--all", metavar="OUTFOLDER",
                                              help="Import every SAE, to OUTFOLDER/NAME.safetensors.")] = None,
) -> None:  # fmt: skip
    """Read SAEs of another library into files that `saelib evaluate` and `saelib export` take.

    \b
    saelens              cfg.json, sae_weights.safetensors
                         standard, topk, abstopk and jumprelu
    dictionary_learning  config.json, ae.pt (nothing in it is run)
                         all classes but GatedAutoEncoder
    sparsify             cfg.json, sae.safetensors
                         TopK

    A setting or a tensor that changes what is computed, and is not understood, is refused by name. Of a repository,
    only the files of the SAEs that are imported are downloaded. A release of SAELens is loaded by that library, which
    must be installed.

    \b
    Example: saelib import downloads/layers.5 sae.safetensors
             saelib import EleutherAI/sae-llama-3-8b-32x
             saelib import EleutherAI/sae-llama-3-8b-32x::layers.5 sae.safetensors
             saelib import downloads --all imported
    """
    from saelib.interchange.collection import import_all, open_collection
    from saelib.interchange.registry import check_output
    from saelib.sae.file import save_sae

    if out is not None and all_ is not None:
        raise UserError(f"{out} and --all {all_}: name one of the two")
    if out is not None:
        check_output(out)
    library = from_.value if from_ else None
    collection, name = open_collection(source, library)
    if all_ is not None:
        if name is not None:
            raise UserError(f"{source}: --all imports every SAE; take off ::{name}")
        for file, saved in import_all(collection, all_, library).items():
            typer.echo(f"{file}: {describe(saved)}")
    elif out is not None:
        saved = collection.load(name, library)
        save_sae(saved, out)
        typer.echo(f"{out}: {describe(saved)}")
    else:
        typer.echo("\n".join(f"{collection.place}::{one}".removesuffix("::.") for one in collection.names))


def describe(saved: "SavedSAE") -> str:
    """Gives the architecture and the sizes of an SAE."""
    sae = saved.sae
    return f"{sae.architecture}, d_in {sae.d_in}, d_sae {sae.d_sae}" + (f", k {sae.k}" if sae.k else "")
