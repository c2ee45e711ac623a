"""The device that a section measures, with the sizes of its cases, the time left and clocks."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from benchmarks.contenders.worker import Setting
from benchmarks.gpu.clock import Call, Pace, median_ms, paced
from benchmarks.training import LARGE

T = TypeVar("T")
TINY = replace(LARGE, d_in=32, d_sae=256, k=4, batch_size=64, k_aux=16)


@dataclass(frozen=True)
class Card:
    """A device to measure."""

    device: str
    """`cuda` or `cpu`."""
    tiny: bool
    """Whether cases are so small that they only show that they run."""
    deadline: float
    """The reading of `time.monotonic` at which measuring ends."""

    @property
    def on_gpu(self) -> bool:
        """Whether the device works at the same time as the host, and has its own memory."""
        return self.device != "cpu"

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def either(self, full: T, tiny: T) -> T:
        """The size to use: `tiny` in a tiny run."""
        return tiny if self.tiny else full

    def setting(self, **options: object) -> Setting:
        """The training that most sections measure: d_in 768, d_sae 8,192, k 64, batches of 4,096 tokens.

        On a GPU, saelib trains with the kernels that it chooses there; the kernels for CPUs are no part of this.
        """
        own = {"device": self.device, "path": "auto" if self.on_gpu else "torch"}
        base = replace(self.either(LARGE, TINY), **own, threads=torch.get_num_threads())
        return replace(base, **options)  # pyright: ignore[reportArgumentType]

    def median_ms(self, call: Call, repeats: int = 20) -> float:
        """Calls `clock.median_ms`; a tiny run times one call."""
        return median_ms(call, self.device, *self.either((repeats, 3), (1, 1)))

    def paced(self, call: Call, repeats: int = 20) -> Pace:
        """Calls `clock.paced`; a tiny run times one call."""
        return paced(call, self.device, *self.either((repeats, 3), (1, 1)))

    def free(self) -> None:
        """Releases memory that nothing refers to anymore."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()


@contextmanager
def products_in(precision: str) -> Iterator[torch.dtype]:
    """Gives the type of a product's factors; inside, those of float32 are rounded to TF32 if `precision` is `tf32`."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield {"bfloat16": torch.bfloat16, "float64": torch.float64}.get(precision, torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)
