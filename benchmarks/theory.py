"""Closed forms for total death from summary statistics, against what a suite counted and the paper's released rows."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.timing import command_line, environment, environment_line, show
from saelib.activations.rows import Rows, read_float32
from saelib.init_death.result import load_result
from saelib.stats import load_stats
from saelib.stats.correlation import spearman
from saelib.store import open_store
from saelib.theory.closed_forms import dead_total, dead_total_paper
from saelib.theory.spectrum import dead_total_from_ranks, dead_total_from_spectrum

PACKAGES = ("numpy", "scipy", "polars")
RELEASED_SETTING = {"d_sae": 8192, "k": 64, "tokens": 100_000}
SCALES, TOKENS_PER_RANK = (1, 1.1, 1.2, 1.3, 1.5), (30, 100, 300, 1000, np.inf)
DIRECTIONS, KURTOSIS_TOKENS = 256, 4096


@dataclass(frozen=True)
class Errors:
    """Errors of one form over some layers, in percentage points."""

    rho: float
    mae: float
    bias: float
    largest: float
    by_group: dict[str, float]
    """Mean absolute error by domain and, of a suite, by model."""


def main(argv: list[str]) -> None:
    parser = command_line("theory", __doc__)
    parser.add_argument("--results", type=Path, help="of a suite: its extract/, stats/, init_death/ and tables/")
    parser.add_argument("--released", type=Path, help="the paper's table init_stats.csv")
    options = parser.parse_args(argv)
    if not options.results and not options.released:
        parser.error("name --results, --released or both")
    found = suite(options.results) if options.results else {}
    if options.released:
        found |= released(pl.read_csv(options.released))
    report: dict[str, object] = {name: asdict(errors) for name, errors in found.items()}
    lines = [f"{'':62} {'rho':>6} {'MAE':>6} {'bias':>6} {'largest':>8}   MAE by group"]
    for name, one in found.items():
        groups = ", ".join(f"{group} {error:.1f}" for group, error in one.by_group.items())
        lines.append(f"{name:62} {one.rho:6.3f} {one.mae:6.2f} {one.bias:+6.2f} {one.largest:+8.1f}   {groups}")
    show(report | {"environment": environment(*PACKAGES)}, [*lines, environment_line(*PACKAGES)], options.json)


def errors_of(predicted: Sequence[float], counted: Sequence[float], *groupings: Sequence[str]) -> Errors:
    """Compares predicted with counted fractions; each grouping names the group of every fraction."""
    error = 100 * (np.asarray(predicted) - np.asarray(counted))
    members = {str(name): np.asarray(names) == name for names in groupings for name in dict.fromkeys(names)}
    rho = spearman(np.asarray(predicted), np.asarray(counted)).rho
    assert rho is not None, "a suite has layers that differ"
    return Errors(
        rho=rho,
        mae=float(np.abs(error).mean()),
        bias=float(error.mean()),
        largest=float(error[np.abs(error).argmax()]),
        by_group={name: float(np.abs(error[of_group]).mean()) for name, of_group in members.items()},
    )


def suite(results: Path) -> dict[str, Errors]:
    """Raw death of every layer: forms from gamma, and from gamma, participation ratio and kurtosis."""
    counted: list[float] = []
    models: list[str] = []
    domain = dict(pl.read_csv(results / "tables" / "layers.csv").select("model", "domain").rows())
    forms: dict[str, list[float]] = {}
    for path in sorted((results / "init_death").glob("*/layer_*.json")):
        model, layer = path.parent.name, path.stem
        death = load_result(path)
        stats = load_stats(results / "stats" / model / f"{layer}.json")
        gamma, at = stats.gamma_unit or 0.0, {"d_sae": death.d_sae, "k": death.k, "tokens": death.tokens}
        rank, kurtosis = unit_spectrum(open_store(results / "extract" / model / f"{layer}.zarr").train)
        counted.append(death["raw"].dead_total.mean)
        models.append(model)
        for name, value in {
            "suite: paper's form, gamma": float(dead_total_paper(stats.gamma or 0.0, **at)),
            "suite: extended form, gamma_unit": float(dead_total(gamma, **at)),
            "suite: spectrum, Gaussian": dead_total_from_spectrum(gamma, rank, 0, death.d_in, **at),
            "suite: spectrum and kurtosis": dead_total_from_spectrum(gamma, rank, kurtosis, death.d_in, **at),
        }.items():
            forms.setdefault(name, []).append(value)
    domains = [domain[model] for model in models]
    return {name: errors_of(values, counted, domains, models) for name, values in forms.items()}


def unit_spectrum(rows: Rows) -> tuple[float, float]:
    """Participation ratio of the unit-norm tokens, and their excess kurtosis along random directions (a mean)."""
    x = np.concatenate([read_float32(rows, s, min(s + 4096, rows.shape[0])) for s in range(0, rows.shape[0], 4096)])
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    x /= np.where(lengths > 0, lengths, 1)
    mean = x.mean(axis=0, dtype=np.float64)
    variances = np.linalg.eigvalsh((x.T @ x).astype(np.float64) / len(x) - np.outer(mean, mean))
    directions = np.random.default_rng(0).standard_normal((x.shape[1], DIRECTIONS))
    projections = (x[:KURTOSIS_TOKENS] - mean) @ directions
    projections -= projections.mean(axis=0)
    kurtosis = (projections**4).mean(axis=0) / (projections**2).mean(axis=0) ** 2 - 3
    return float(variances.sum() ** 2 / (variances**2).sum()), float(kurtosis.mean())


def released(table: pl.DataFrame) -> dict[str, Errors]:
    """The paper's rows: without a fit, and with two parameters chosen on all models but the one that is predicted."""
    counted, domains = table["dead_pct_init_topk"].to_numpy() / 100, table["domain"].to_list()
    gamma, gamma_raw = table["gamma"].to_numpy(), table["gamma_raw"].to_numpy()
    larger = np.maximum(gamma, gamma_raw)
    grid = {(a, c): by_ranks(table, a, c) for a in SCALES for c in TOKENS_PER_RANK}
    forms: dict[str, Callable[[], NDArray[np.float64]]] = {
        "released: paper's form, gamma": lambda: dead_total_paper(gamma, **RELEASED_SETTING),
        "released: extended form, larger gamma": lambda: dead_total(larger, **RELEASED_SETTING),
        "released: ranks, no fit": lambda: grid[1, np.inf],
        "released: ranks, two parameters, leave one model out": lambda: leave_one_out(grid, counted, table["model"]),
        "released: ranks, two parameters, fitted to all rows": lambda: by_ranks(table),
    }
    return {name: errors_of(list(form()), list(counted), domains) for name, form in forms.items()}


def by_ranks(table: pl.DataFrame, *parameters: float) -> NDArray[np.float64]:
    """`dead_total_from_ranks` of every row; with its own parameters if none are given."""
    fitted = dict(zip(("signal_scale", "tokens_per_rank"), parameters, strict=False))
    columns = table.select("gamma", "gamma_raw", "effective_rank", "hidden_dim").rows()
    return np.array([dead_total_from_ranks(*row, **RELEASED_SETTING, **fitted) for row in columns])


def leave_one_out(
    grid: dict[tuple[float, float], NDArray[np.float64]], counted: NDArray[np.float64], models: pl.Series
) -> NDArray[np.float64]:
    """Each model's rows by the parameters with the least mean absolute error on the other models."""
    predictions, names = np.stack(list(grid.values())), models.to_numpy()
    found = np.empty(len(counted))
    for model in models.unique():
        others = names != model
        best = np.abs(predictions[:, others] - counted[others]).mean(axis=1).argmin()
        found[~others] = predictions[best, ~others]
    return found
