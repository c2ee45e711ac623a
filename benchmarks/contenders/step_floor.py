"""The floor: one encoder matrix product, x W_enc, by the fastest route that this machine offers."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders.worker import Setting, Step, serve
from saelib.sae.kernels.cpu import why_unsupported


def make(setting: Setting) -> Step:
    weights = torch.randn(setting.d_sae, setting.d_in)
    hidden_pre = torch.empty(setting.batch_size, setting.d_sae)
    routes: dict[str, Callable[[Tensor], object]] = {
        "torch.mm": lambda x: torch.mm(x, weights.T, out=hidden_pre),
        "oneDNN": lambda x: torch.ops.mkldnn._linear_pointwise(x, weights, None, "none", [], ""),
        "numpy": lambda x: np.matmul(x.numpy(), weights.numpy().T, out=hidden_pre.numpy()),
    }
    if why_unsupported() is None:
        routes["saelib's kernel"] = kernel_route(weights, setting)
    x = torch.randn(setting.batch_size, setting.d_in)
    fastest = min(routes, key=lambda name: _median(routes[name], x))

    def step(batch: Tensor) -> None:
        routes[fastest](batch)

    step.label = fastest  # pyright: ignore[reportFunctionMemberAccess]
    return step


def kernel_route(weights: Tensor, setting: Setting) -> Callable[[Tensor], object]:
    """Multiplies block by block, as in a training step."""
    from saelib.sae.kernels.gemm import BLOCK_ROWS, encode_rows, pack, padded
    from saelib.sae.kernels.threads import Workers

    panels, width = pack(weights.numpy(), setting.d_in), padded(setting.d_sae)
    bias, workers = np.zeros(width, np.float32), Workers(setting.threads)
    blocks = np.empty((setting.threads, BLOCK_ROWS, width), np.float32)

    def route(x: Tensor) -> None:
        rows = x.numpy()

        def block(i: int, worker: int) -> None:
            start = i * BLOCK_ROWS
            encode_rows(rows, start, min(start + BLOCK_ROWS, len(rows)), panels, bias, blocks[worker])

        workers.each(-(-len(rows) // BLOCK_ROWS), block)

    return route


def _median(route: Callable[[Tensor], object], x: Tensor) -> float:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        route(x)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    serve(make)
