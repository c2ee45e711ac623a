"""Times `saelib diagnose` by part, against its floor: reading, one Gram matrix and three encoder products.

What `--sae` adds (`saelib.diagnosis.sae_check.check_sae`) is timed by itself.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.timing import (
    Task,
    command_line,
    cpu_seconds,
    environment,
    environment_line,
    median_cpu,
    peak_memory,
    show,
)
from saelib.activations.open import open_rows
from saelib.activations.rows import Rows, read_float32
from saelib.diagnosis.diagnose import Question, diagnose_rows
from saelib.diagnosis.sae_check import check_sae
from saelib.environments import available_cpus
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE
from saelib.sae.model import SAE
from saelib.stats import compute_stats

D_IN, D_SAE, K = 768, 8192, 64
BLOCK = 2048
PACKAGES = ("numpy", "numba", "scipy", "torch")


def main(argv: list[str]) -> None:
    parser = command_line("diagnose", __doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 tokens instead of 100,000")
    options = parser.parse_args(argv)
    tokens = 10_000 if options.quick else 100_000

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "acts.npy"
        np.save(file, activations(tokens))
        question = Question(D_SAE, K, tokens)
        threads = available_cpus()
        diagnose_rows(open_rows(file), Question(D_SAE, K, 2 * BLOCK), threads=threads)  # compile
        parts: dict[str, float] = {}
        walls: list[float] = []

        def ours() -> None:
            start = time.perf_counter()
            with timed_parts(parts) as watch:
                diagnose_rows(open_rows(file), question, threads=threads, watch=watch)
            walls.append(time.perf_counter() - start)

        saved, stats = random_sae(), compute_stats(open_rows(file), workers=threads)
        check_walls: list[float] = []

        def check() -> None:
            start = time.perf_counter()
            check_sae(saved, open_rows(file), stats)
            check_walls.append(time.perf_counter() - start)

        tasks: dict[str, Task] = {"floor": lambda: floor(open_rows(file)), "saelib": ours, "SAE check": check}
        with threadpool_limits(threads, "blas"):
            seconds = median_cpu(tasks)
        memory, check_memory = peak_memory(ours), peak_memory(check)

    ratio = seconds["saelib"] / seconds["floor"]
    lines = [f"{tokens} tokens, d_in {D_IN}, d_sae {D_SAE}, k {K}; {threads} CPUs"]
    lines += [f"{name:>12} {value:8.2f} CPU-s" for name, value in seconds.items()]
    lines += [f"  {name:>10} {value:8.2f} CPU-s" for name, value in parts.items()]
    lines.append(
        f"{ratio:.2f} times the floor; {min(walls):.1f} s on the clock at best; {memory / 2**20:.0f} MiB at most"
    )
    lines.append(f"SAE check: {min(check_walls):.1f} s on the clock at best; {check_memory / 2**20:.0f} MiB at most")
    figures = {"tokens": tokens, "cpu_seconds": seconds, "parts": parts, "wall_seconds": walls, "peak_bytes": memory}
    figures |= {"check_wall_seconds": check_walls, "check_peak_bytes": check_memory}
    show(figures | {"environment": environment(*PACKAGES)}, [*lines, environment_line(*PACKAGES)], options.json)


def activations(tokens: int) -> np.ndarray:
    """Draws activations whose dimension 296 holds most of the mean."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((tokens, D_IN), dtype=np.float32) * rng.uniform(0.3, 1.2, D_IN).astype(np.float32)
    x[:, 296] += 60
    return x


def random_sae() -> SavedSAE:
    """Draws a TopK SAE whose decoder is the transpose of its encoder."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=generator), dim=1)
    weights = {
        "W_enc": directions.T,
        "W_dec": directions.clone(),
        "b_enc": torch.zeros(D_SAE),
        "b_dec": torch.zeros(D_IN),
    }
    return SavedSAE(SAE("topk", weights, K), Preprocessing(np.zeros(D_IN)), {})


def floor(rows: Rows) -> None:
    """Reads the rows once, and makes one Gram matrix and three encoder products of them."""
    w_enc = np.random.default_rng(0).standard_normal((D_IN, D_SAE), dtype=np.float32)
    hidden, gram = np.empty((BLOCK, D_SAE), np.float32), np.zeros((D_IN, D_IN), np.float32)
    for start in range(0, rows.shape[0], BLOCK):
        x = read_float32(rows, start, min(start + BLOCK, rows.shape[0]))
        gram += x.T @ x
        for _ in range(3):
            np.matmul(x, w_enc, out=hidden[: len(x)])


@contextmanager
def timed_parts(parts: dict[str, float]) -> Iterator:
    """Gives a `watch` that counts the CPU seconds from each stage's start to the next one's into `parts`."""
    parts.clear()
    last: list[tuple[str, float]] = []

    def end() -> None:
        if last:
            name, start = last.pop()
            parts[name] = cpu_seconds() - start

    def watch(stage: str, rows: Rows) -> Rows:
        end()
        last.append((stage, cpu_seconds()))
        return rows

    yield watch
    end()
