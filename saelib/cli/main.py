"""Defines the commands of `saelib`. The pipeline itself is run by `snakemake`."""

import math
from pathlib import Path
from typing import Annotated

import typer

import saelib
from saelib.cli.diagnose import diagnose_app
from saelib.cli.features import features_app
from saelib.cli.plan import plan_app
from saelib.cli.recovery import recovery_app
from saelib.cli.sae import sae_app
from saelib.cli.show import FillMissingChunks, show_rows, show_values
from saelib.cli.suite import suite_app
from saelib.environments import explain_missing_extras
from saelib.errors import UserError, exit_on_user_error

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
store_app = typer.Typer(help="Check and delete activation stores.", no_args_is_help=True)
app.add_typer(store_app, name="store")
app.add_typer(diagnose_app)
app.add_typer(sae_app)
app.add_typer(features_app)
app.add_typer(plan_app)
app.add_typer(suite_app)
app.add_typer(recovery_app)

MANY = 10**15
"""Largest size that the closed forms accept; a larger one could overflow float64."""
PASSES = 20
"""Approximate number of times that `saelib stats` reads the rows, mostly for the two geometric medians."""
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Runs the command line, for `saelib` and for `python -m saelib`."""
    exit_on_user_error(_run)


def _run() -> None:
    with explain_missing_extras():
        app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"saelib {saelib.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Measure, explain and prevent latents of sparse autoencoders that are dead before training."""


@app.command()
def theory(
    gamma: Annotated[float, typer.Option(min=0, help="Severity ||mean|| / ||std||: gamma_unit of saelib stats.")],
    d_sae: Annotated[int, typer.Option(min=1, max=MANY, help="Latents of the SAE.")] = 8192,
    k: Annotated[int, typer.Option(min=1, max=MANY, help="Latents that are selected for each token.")] = 64,
    tokens: Annotated[int, typer.Option(min=2, max=MANY, help="Tokens on which each latent may fire.")] = 100_000,
    json: Json = False,
) -> None:
    """Predict the fraction of latents that are dead at initialization by closed forms.

    dead_relu: the latent is never above 0 before the selection. dead_total: it is never selected; dead_relu is
    included. dead_total_paper: the same by the paper's formula, which is too low for gamma below about 2.

    Example: saelib theory --gamma 5 --d-sae 8192 --k 64 --tokens 100000
    """
    from dataclasses import asdict

    from saelib.theory.closed_forms import predict

    if not math.isfinite(gamma):
        raise UserError(f"--gamma {gamma}: should be a finite number, 0 or more, as 'saelib stats' measures it")
    show_values(asdict(predict(gamma, d_sae, k, tokens)), json)


@app.command()
def stats(
    file: Annotated[str, typer.Argument(help="Activations, tokens x d_in or examples x context x d_in: a file (.npy, "
                                             ".npz, .safetensors, .pt, .zarr, .h5, .parquet, .arrow), a folder of them "
                                             "or a pattern ('acts/*.npy'), a data set saved by datasets, or a store. "
                                             "FILE::NAME names one of several arrays in a file.")],
    workers: Annotated[int, typer.Option(min=1, help="CPU cores to use.")] = 1,
    fill_missing_chunks: FillMissingChunks = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Measure gamma, effective rank and the other statistics of your own activations that decide death.

    Files of any size are read block by block. Example: saelib stats activations.npy
    """
    from saelib.activations.open import FileRows, open_rows
    from saelib.cli.watch import log_to_stderr, watched
    from saelib.stats import compute_stats

    log_to_stderr()
    rows = open_rows(file, fill_missing_chunks)
    with watched(f"stats {file}", rows, PASSES) as seen:
        measured = compute_stats(seen, workers=workers, whitening=False)
    source = [file, *(rows.notes if isinstance(rows, FileRows) else [rows.name])]
    names = (
        "tokens", "d_in", "gamma", "gamma_raw", "gamma_unit", "effective_rank", "effective_rank_fraction",
        "excess_kurtosis", "norm_ratio", "warnings",
    )  # fmt: skip
    show_values({"source": source} | {name: getattr(measured, name) for name in names}, json)


@app.command()
def spearman(
    table: Annotated[Path, typer.Argument(dir_okay=False, help="A .csv, .tsv or .parquet table.")],
    x: Annotated[str, typer.Option(help="Column of numbers.")],
    y: Annotated[str, typer.Option(help="Column of numbers.")],
    by: Annotated[
        list[str] | None, typer.Option(help="Column; the correlation is also computed for each of its values.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Column whose equal values mark rows that are not independent; 'model' if there is one."),
    ] = None,
    json: Json = False,
) -> None:
    """Compute the rank correlation of two columns, over all rows and by group, with 95 % intervals.

    ci_low, ci_high: the interval over whole models (or other groups of rows that are alike, with `--cluster`), from
    leaving out one after another. ci_low_rows, ci_high_rows: the interval if all rows were independent. If there is no
    interval, `reason` says why. Cells that are empty, NA or NaN are left out and counted.

    Example: saelib spearman results/tables/layers.csv --x gamma_unit --y dead_total --by domain
    """
    from saelib.files.tables import read_table
    from saelib.stats.correlation import spearman_table

    frame = read_table(table, [x, y, *(by or []), *([cluster] if cluster else [])], numbers=[x, y])
    rows = spearman_table(frame, x, y, by or [], cluster or "model")
    if not json:
        over = rows[0]["ci_over"]
        typer.echo(f"Spearman's rho of {x} and {y}; 95 % interval over {over}: ci_low to ci_high")
        hidden = {"x", "y", "ci_over"} | ({"ci_low_rows", "ci_high_rows"} if over == "rows" else set())
        rows = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
    show_rows(rows, json)


@store_app.command("verify")
def store_verify(
    store: Annotated[str, typer.Argument(help="A layer_*.zarr folder, or its s3:// URL.")],
    json: Json = False,
) -> None:
    """Compare every chunk of a store with its checksum. The exit code is 1 if one is missing or corrupt."""
    from saelib.store import open_store, verify_store

    problems = verify_store(store)
    if json:
        show_values({"store": store, "ok": not problems, "problems": problems}, json)
    elif not problems:
        typer.echo(f"{store}: complete, all checksums right")
        metadata = open_store(store).metadata
        for split, dtype in metadata.dtypes.items():
            typer.echo(f"  {split}: {dtype}{f': {metadata.reasons[split]}' if split in metadata.reasons else ''}")
    if problems:
        raise UserError(f"{store}: {len(problems)} problem(s)\n  " + "\n  ".join(problems))


@store_app.command("delete")
def store_delete(store: Annotated[str, typer.Argument(help="A layer_*.zarr folder, or its s3:// URL.")]) -> None:
    """Delete a store, so that the next run extracts it again."""
    from saelib.store import remove_store

    remove_store(store)
    typer.echo(f"{store}: deleted")
