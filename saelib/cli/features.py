"""Defines the command that writes the pages of an SAE's latents."""

from pathlib import Path
from typing import Annotated

import typer

features_app = typer.Typer()


@features_app.command()
def features(
    evaluation: Annotated[Path, typer.Argument(help="The evaluation of one layer: results/evaluation/MODEL/LAYER.")],
    sae: Annotated[str, typer.Argument(help="Name of an SAE in it, or its folder.")],
    to: Annotated[Path, typer.Option(help="The folder to write; an earlier one is replaced.")],
    weights: Annotated[
        str | None,
        typer.Option(help="The SAE itself: anything that 'saelib evaluate' takes. Without it, the page has no map and "
                          "no neighbors."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Annotations to show along sequences: a Swiss-Prot, GenBank or EMBL file with the same "
                          "sequences."),
    ] = None,
    structures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Structures of proteins: .cif or .pdb files, named by the ids of the "
                                            "sequences."),
    ] = None,
    neuronpedia: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also write the latents of a language model for Neuronpedia, into "
                                            "FOLDER/MODEL/SAE."),
    ] = None,
    saedashboard: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also write them in the format of SAEDashboard; an earlier folder is "
                                            "replaced."),
    ] = None,
) -> None:  # fmt: skip
    """Write pages that show what each latent of an SAE fires on, to open from disk in any browser.

    index.html in the folder --to holds a map and a list of all latents to search, sort and filter, and for each latent
    its strongest and some random examples in context. It needs no network, and loads only what is looked at.

    Example: saelib features results/evaluation/gpt2/layer_5 baseline-seed0 --to pages
    """
    from saelib.cli.watch import log_to_stderr
    from saelib.config.evaluation import AnnotationLabels
    from saelib.config.files import LocalFiles
    from saelib.evaluation.seen import read_seen
    from saelib.features.annotations import annotations_of
    from saelib.features.exports import write_exports
    from saelib.features.index import Names
    from saelib.features.pages import write_pages
    from saelib.features.structures import find_structures
    from saelib.interchange.collection import load_any
    from saelib.sae.fold import fold_preprocess

    log_to_stderr()
    seen, name = read_seen(evaluation), Path(sae).name
    decoder = None if weights is None else fold_preprocess(load_any(weights)[0]).sae.W_dec.detach().numpy()
    labels = AnnotationLabels(kind="annotations", files=(LocalFiles(path=annotations),)) if annotations else None
    notes = None if labels is None else annotations_of(seen, labels, str(evaluation))
    files = None if structures is None else find_structures(structures, seen.examples)
    siblings = {other: f"../{other}/index.html" for other in seen.saes if (to.parent / other / "index.html").is_file()}
    place = "/".join(evaluation.resolve().parts[-2:])
    exported = write_exports(seen, name, neuronpedia, saedashboard, decoder)
    page = write_pages(to, seen, name, Names(name, place, twins=siblings), decoder, notes, files)
    for path in (page, *exported):
        typer.echo(f"{path}: written")
