"""Replay of a step as one CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Calls before the capture, in which Triton compiles its kernels and the libraries find theirs."""


class Replayed:
    """A function of a batch that is captured as a CUDA graph, so that the host starts one thing instead of thirty.

    The function may only read and write tensors that stay where they are, and must not wait for the device. On a CPU,
    and for batches of another shape than the captured one, it is called as it is.
    """

    def __init__(self, function: Callable[[Tensor], None]) -> None:
        """Nothing is captured yet."""
        self._function = function
        self.forget()

    def forget(self) -> None:
        """Drop what was captured, because the function does something else from now on."""
        self._calls = 0
        self._x: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor) -> None:
        """Run the function on `x`."""
        self._calls += 1
        if on_gpu(x) and self._graph is None and self._calls > WARM_UP:
            self._capture(x)
        if self._x is None or self._graph is None or self._x.shape != x.shape:
            self._function(x)
            return
        self._x.copy_(x)
        self._graph.replay()

    def _capture(self, x: Tensor) -> None:
        """Record what the function starts on the device; it does not run."""
        self._x, self._graph = x.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._function(self._x)


def on_gpu(x: Tensor) -> bool:
    """True for a tensor of a kind of device that has graphs."""
    return x.is_cuda
