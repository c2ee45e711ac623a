"""Measures the error that fewer tokens cause: compares parts of a store with all of its training rows.

There are two kinds of part: `drawn` takes rows from everywhere, `first` takes consecutive whole examples, as an
extraction of fewer tokens would. Errors are root mean squares over several parts, which share no row if the store is
large enough.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.timing import command_line, environment, environment_line, show
from saelib.activations.rows import ArrayRows, read_float32
from saelib.init_death.measure import measure
from saelib.preprocessing.fit import make_preprocessing
from saelib.stats import LayerStats, compute_stats
from saelib.store import Store, open_store

PACKAGES = ("numpy", "numba")
PARTS = 4
D_SAE, K = 2048, 64
PREPROCESSINGS = ("raw", "center_median")


@dataclass(frozen=True)
class Found:
    """Statistics and dead rates of some tokens."""

    stats: LayerStats
    dead: Mapping[str, float]
    """Preprocessing -> fraction of latents dead at initialization, on these same tokens."""


def main(argv: list[str]) -> None:
    parser = command_line("fewer_tokens", __doc__)
    parser.add_argument("stores", nargs="+", type=Path, help="such as results/extract/antiberty/layer_4.zarr")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000, 5_000, 20_000, 100_000])
    options = parser.parse_args(argv)
    report: dict[str, object] = {}
    lines: list[str] = []
    with threadpool_limits(1, "blas"):
        for path in options.stores:
            figures, more = compare(open_store(path), options.sizes)
            report[str(path)] = figures
            lines += more
    show(report | {"environment": environment(*PACKAGES)}, [*lines, environment_line(*PACKAGES)], options.json)


def compare(store: Store, sizes: Sequence[int]) -> tuple[dict[str, object], list[str]]:
    """Measures one store. Returns the figures and the lines to print."""
    rows = store.train
    x = read_float32(rows, 0, rows.shape[0])
    example = np.asarray(store.arrays["train"]["example"][:])
    whole = find(x)
    lines = [
        f"{rows.name}: {len(x)} tokens of {len(np.unique(example))} examples, d_in {x.shape[1]}, "
        f"gamma {whole.stats.gamma:.4g}, effective rank {whole.stats.effective_rank:.4g}, "
        + ", ".join(f"dead {name} {100 * rate:.2f} %" for name, rate in whole.dead.items()),
        f"{'tokens':>8} {'':6} {'gamma':>8} {'rank':>8} {'bias':>8} {'median':>8}"
        + "".join(f"{'dead ' + name:>20}" for name in PREPROCESSINGS),
    ]
    figures: dict[str, object] = {"whole": {"gamma": whole.stats.gamma, "rank": whole.stats.effective_rank}}
    for size in (size for size in sizes if 2 * size <= len(x)):
        for kind, chosen in (("drawn", drawn(len(x), size)), ("first", runs(example, size))):
            error = errors(whole, [find(x[part]) for part in chosen])
            figures[f"{size} {kind}"] = error
            lines.append(
                f"{size:8} {kind:6} {error['gamma']:8.2%} {error['rank']:8.2%} {error['rank bias']:+8.2%}"
                f" {error['median']:8.3f}" + "".join(f"{error['dead ' + name]:20.2%}" for name in PREPROCESSINGS)
            )
    return figures, lines


def find(x: NDArray[np.float32]) -> Found:
    """Computes statistics of `x` [tokens, d_in] and dead rates on it."""
    rows = ArrayRows(x)
    stats = compute_stats(rows, whitening=False)
    preprocessings = {name: make_preprocessing(name, stats.arrays) for name in PREPROCESSINGS}
    death = measure(rows, preprocessings, D_SAE, K, seeds=[0])
    return Found(stats, {name: found.dead_total.mean for name, found in death.preprocessings.items()})


def drawn(tokens: int, size: int) -> list[NDArray[np.int64]]:
    """Draws parts from all rows."""
    # Not the seed of suites: the store's rows were shuffled with it, and the same permutation would undo that.
    order = np.random.default_rng(2026).permutation(tokens)
    return [np.sort(order[i * size : (i + 1) * size]) for i in range(min(PARTS, tokens // size))]


def runs(example: NDArray[np.int32], size: int) -> list[NDArray[np.int64]]:
    """Takes parts of consecutive whole examples, the last example cut, as far apart as possible."""
    order = np.argsort(example, kind="stable")
    parts = min(PARTS, len(example) // size)
    return [order[start : start + size] for start in range(0, parts * (len(example) // parts), len(example) // parts)]


def errors(whole: Found, parts: Sequence[Found]) -> dict[str, float]:
    """Root mean square errors of the parts, and mean dead rates.

    Errors of gamma and effective rank are relative to the whole's; those of the geometric median are in units of
    ||sigma||.
    """
    sigma = whole.stats.sigma

    def rms(values: Sequence[float]) -> float:
        return math.sqrt(statistics.fmean(value**2 for value in values))

    def relative(value: float | None, reference: float | None) -> float:
        assert value is not None, "no layer of the default suite has one dimension"
        assert reference is not None
        return value / reference - 1

    ranks = [relative(part.stats.effective_rank, whole.stats.effective_rank) for part in parts]
    medians = [part.stats.arrays["center_median"] - whole.stats.arrays["center_median"] for part in parts]
    return {
        "gamma": rms([relative(part.stats.gamma, whole.stats.gamma) for part in parts]),
        "rank": rms(ranks),
        "rank bias": statistics.fmean(ranks),
        "median": rms([float(np.linalg.norm(median)) / sigma for median in medians]),
    } | {f"dead {name}": statistics.fmean(part.dead[name] for part in parts) for name in PREPROCESSINGS}
