"""Compares init death of raw and centered activations with one matrix product of the same shape and with torch.topk."""

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.timing import command_line, environment, environment_line, median_cpu, show
from saelib.activations.rows import ArrayRows
from saelib.init_death.encoder import random_encoder
from saelib.init_death.measure import measure
from saelib.preprocessing.transform import Preprocessing

D_IN, D_SAE, K = 768, 8192, 64
GAMMA = 5.0
BLOCK = 512
PACKAGES = ("numpy", "numba", "torch")

Dead = tuple[float, float]
"""Fractions of the latents: dead_relu, dead_total."""


def main(argv: list[str]) -> None:
    parser = command_line("init_death", __doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 tokens instead of 100,000")
    options = parser.parse_args(argv)
    tokens = 10_000 if options.quick else 100_000

    x, mean = activations(tokens)
    preprocessings = {"raw": Preprocessing(np.zeros(D_IN)), "center_mean": Preprocessing(mean)}
    w_enc = random_encoder(D_IN, D_SAE, seed=0)
    torch.set_num_threads(1)
    found: dict[str, dict[str, Dead]] = {}

    def ours() -> None:
        found["saelib"] = by_saelib(x, preprocessings)

    def torch_topk() -> None:
        found["torch.topk"] = {
            name: by_torch(x, preprocess.center, w_enc) for name, preprocess in preprocessings.items()
        }

    by_saelib(x[:BLOCK], preprocessings)  # compile
    with threadpool_limits(1):
        seconds = median_cpu({"one GEMM": lambda: one_gemm(x, w_enc), "saelib": ours, "torch.topk": torch_topk})

    lines = [f"{tokens} tokens, d_in {D_IN}, d_sae {D_SAE}, k {K}, gamma {GAMMA}; one thread; dead by ReLU / in total"]
    for name, value in seconds.items():
        rates = [f"{key} {100 * relu:.2f} / {100 * total:.2f} %" for key, (relu, total) in found.get(name, {}).items()]
        lines.append(f"{name:>12} {value:8.2f} CPU-s {value / seconds['one GEMM']:6.2f} GEMMs  {', '.join(rates)}")
    figures: dict[str, object] = {"tokens": tokens, "d_in": D_IN, "d_sae": D_SAE, "k": K}
    figures |= {"cpu_seconds": seconds, "dead": found, "environment": environment(*PACKAGES)}
    show(figures, [*lines, environment_line(*PACKAGES)], options.json)


def activations(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws Gaussian activations with gamma = `GAMMA`. Returns them and their mean."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal(D_IN)
    mean *= GAMMA * np.sqrt(D_IN) / np.linalg.norm(mean)
    return rng.standard_normal((tokens, D_IN), dtype=np.float32) + mean.astype(np.float32), mean


def one_gemm(x: np.ndarray, w_enc: np.ndarray) -> None:
    """Computes the floor: pre-activations of one dictionary, block by block into the same memory."""
    hidden = np.empty((BLOCK, D_SAE), np.float32)
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        np.matmul(part, w_enc, out=hidden[: len(part)])


def by_saelib(x: np.ndarray, preprocessings: dict[str, Preprocessing]) -> dict[str, Dead]:
    """Measures all preprocessings at once with saelib."""
    result = measure(ArrayRows(x), preprocessings, D_SAE, K, seeds=[0])
    return {name: (death.dead_relu.mean, death.dead_total.mean) for name, death in result.preprocessings.items()}


def by_torch(x: np.ndarray, center: np.ndarray, w_enc: np.ndarray) -> Dead:
    """Measures one preprocessing the plain way: matrix product, ReLU and torch.topk for each block."""
    weights, shift = torch.from_numpy(w_enc), torch.from_numpy(center.astype(np.float32))
    positive = torch.zeros(D_SAE, dtype=torch.bool)
    selected = torch.zeros(D_SAE, dtype=torch.bool)
    for start in range(0, len(x), BLOCK):
        feature_acts = torch.relu((torch.from_numpy(x[start : start + BLOCK]) - shift) @ weights)
        positive |= (feature_acts > 0).any(dim=0)
        values, indices = feature_acts.topk(K, dim=1)
        selected[indices[values > 0]] = True
    return 1 - positive.float().mean().item(), 1 - selected.float().mean().item()
