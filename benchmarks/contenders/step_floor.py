"""The floor: one encoder matrix product, x W_enc, by the fastest route that this machine offers."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from saelib.sae.kernels import gemm
from torch import Tensor
from worker import Setting, Step, serve


def make(setting: Setting) -> Step:
    weights = torch.randn(setting.d_sae, setting.d_in)
    hidden_pre = torch.empty(setting.batch_size, setting.d_sae)
    routes: dict[str, Callable[[Tensor], object]] = {
        "torch.mm": lambda x: torch.mm(x, weights.T, out=hidden_pre),
        "oneDNN": lambda x: torch.ops.mkldnn._linear_pointwise(x, weights, None, "none", [], ""),
        "numpy": lambda x: np.matmul(x.numpy(), weights.numpy().T, out=hidden_pre.numpy()),
    }
    if gemm.available():
        routes["saelib's kernel"] = gemm.product(weights.numpy(), setting.batch_size, setting.threads)
    x = torch.randn(setting.batch_size, setting.d_in)
    fastest = min(routes, key=lambda name: _median(routes[name], x))

    def step(batch: Tensor) -> None:
        routes[fastest](batch)

    step.label = fastest  # pyright: ignore[reportFunctionMemberAccess]
    return step


def _median(route: Callable[[Tensor], object], x: Tensor) -> float:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        route(x)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    serve(make)
