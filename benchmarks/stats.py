"""Measures statistics of one layer: CPU seconds against a floor and the textbook way, and peak memory.

No implementation can go below the floor: reading the file and computing one float32 Gram matrix of its shape. The
textbook way loads everything as float64 and computes the singular values. All run on one BLAS thread.
"""

import tempfile
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from zarr.codecs import Crc32cCodec

from benchmarks.timing import command_line, environment, environment_line, median_cpu, peak_memory, show
from saelib.stats import compute_stats
from saelib.stats.compute import effective_rank
from saelib.stats.medians import robust_centers
from saelib.stats.moments import collect_moments
from saelib.stats.slabs import open_slabs

CHUNK_ROWS = 2048
PACKAGES = ("numpy", "numba", "zarr", "dask")


class ZarrRows:
    """A float16 zarr array on disk, laid out like a store, as `Rows`."""

    def __init__(self, path: Path, tokens: int, d_in: int) -> None:
        """Writes the array to `path`."""
        self.name = "benchmark"
        self.shape = (tokens, d_in)
        self.block_rows = CHUNK_ROWS
        self.offset: NDArray[np.float32] | None = np.random.default_rng(1).standard_normal(d_in, np.float32) * 5
        self._array = zarr.create_array(
            path, shape=self.shape, chunks=(CHUNK_ROWS, d_in), dtype="float16", compressors=[Crc32cCodec()]
        )
        for start in range(0, tokens, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, tokens)
            self._array[start:stop] = activations(stop - start, d_in, seed=start)

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """The stored rows, without the offset."""
        return np.asarray(self._array[start:stop])


class TiledRows:
    """An array of any length without a file: the same block again and again."""

    def __init__(self, tokens: int, d_in: int) -> None:
        """Draws the block."""
        self.name = "tiled"
        self.shape = (tokens, d_in)
        self.block_rows = 2 * CHUNK_ROWS
        self.offset: NDArray[np.float32] | None = None
        self._block = activations(self.block_rows, d_in, seed=0)

    def block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Copies the first rows of the block, as if they were read."""
        return self._block[: stop - start].copy()


def activations(tokens: int, d_in: int, seed: int) -> NDArray[np.float16]:
    """Draws Gaussian tokens with a power-law spectrum and heavy-tailed lengths."""
    draw = np.random.default_rng(seed)
    scale = np.arange(1, d_in + 1, dtype=np.float32) ** -0.35
    length = 1 + 0.25 * np.abs(draw.standard_normal((tokens, 1), np.float32))
    return (draw.standard_normal((tokens, d_in), np.float32) * scale * length).astype(np.float16)


def floor(rows: ZarrRows) -> None:
    """Reads everything and computes one float32 Gram matrix (ssyrk) of the same shape."""
    tokens, d_in = rows.shape
    values = np.ones((2 * CHUNK_ROWS, d_in), np.float32)
    gram = np.empty((d_in, d_in), np.float32)
    for start in range(0, tokens, len(values)):
        stop = min(start + len(values), tokens)
        rows.block(start, stop)
        np.matmul(values[: stop - start].T, values[: stop - start], out=gram)


def textbook(rows: ZarrRows) -> None:
    """Computes gammas, kurtosis and effective rank by their definitions: float64, in memory, singular values."""
    x = rows.block(0, rows.shape[0]).astype(np.float64) + np.asarray(rows.offset)
    centered = x - x.mean(1, keepdims=True)
    layer_normed = centered / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    for tokens in (x, layer_normed, x / np.linalg.norm(x, axis=1, keepdims=True)):
        _ = np.linalg.norm(tokens.mean(0)) / np.linalg.norm(tokens.std(0))
    deviation = x - x.mean(0)
    _ = (deviation**4).mean(0) / (deviation**2).mean(0) ** 2 - 3
    effective_rank(np.linalg.svd(layer_normed - layer_normed.mean(0), compute_uv=False) ** 2)


def measure_time(rows: ZarrRows, repeats: int, reference: bool) -> dict[str, float]:
    """Measures CPU seconds by name."""
    slabs = open_slabs(rows)
    moments = collect_moments(slabs, 1, whitening=True)  # also compiles
    robust_centers(slabs, 1)
    tasks = {
        "floor": lambda: floor(rows),
        "one pass": lambda: collect_moments(open_slabs(rows), 1, whitening=False),
        "eigenvalues": lambda: np.linalg.eigvalsh(moments.covariance(1)),
        "one pass with whitening": lambda: collect_moments(open_slabs(rows), 1, whitening=True),
        "whitening eigenvectors": lambda: np.linalg.eigh(moments.covariance(0)),
        "medians": lambda: robust_centers(slabs, 1),
        "everything but whitening": lambda: compute_stats(rows, whitening=False),
        "everything": lambda: compute_stats(rows),
    }
    seconds = median_cpu(tasks, repeats)
    if reference:
        seconds |= median_cpu({"textbook": lambda: textbook(rows)}, repeats=1)
    return seconds


def main(argv: list[str]) -> None:
    parser = command_line("stats", __doc__)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--d-in", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--no-textbook", action="store_true", help="skip the textbook way, which takes a minute and gigabytes"
    )
    parser.add_argument(
        "--memory-tokens", type=int, default=2_000_000, help="tokens for the memory measurement; 0 skips it"
    )
    parser.add_argument("--memory-d-in", type=int, default=1024)
    options = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1, "blas"):
        rows = ZarrRows(Path(folder) / "acts.zarr", options.tokens, options.d_in)
        seconds = measure_time(rows, options.repeats, reference=not options.no_textbook)
    report: dict[str, object] = {"tokens": options.tokens, "d_in": options.d_in, "cpu_seconds": seconds}
    lines = [f"{options.tokens} tokens x {options.d_in}, float16 with offset, CPU seconds (x floor):"]
    lines += [f"  {name:26} {value:8.2f}  {value / seconds['floor']:7.2f}" for name, value in seconds.items()]
    if "textbook" in seconds:
        ours = seconds["one pass"] + seconds["eigenvalues"]
        lines.append(f"  textbook / (one pass + eigenvalues): {seconds['textbook'] / ours:.1f}")
    if options.memory_tokens:
        tiled = TiledRows(options.memory_tokens, options.memory_d_in)
        peak = peak_memory(lambda: compute_stats(tiled))
        report["peak_bytes"] = peak
        lines.append(
            f"{options.memory_tokens} tokens x {options.memory_d_in} (one block tiled, no file), everything, "
            f"1 worker: peak {peak / 1e6:.0f} MB above the start"
        )
    show(report | {"environment": environment(*PACKAGES)}, [*lines, environment_line(*PACKAGES)], options.json)
