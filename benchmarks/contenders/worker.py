"""Runs one contender in its own process: it reads a setting as JSON, then on each line a number of steps to time.

It does not need saelib, so it also runs in the environments of other libraries.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.clock import paced


@dataclass(frozen=True)
class Setting:
    """The SAE that every contender trains, and its data."""

    d_in: int
    d_sae: int
    k: int
    batch_size: int
    threads: int
    dead: int
    """Number of dead latents. They never fire, because the biases of all others are raised (`raise_biases`), and are
    declared dead before each step, so AuxK runs on them. 0: no AuxK."""
    k_aux: int
    architecture: str = "topk"
    """`topk`, `batch_topk` or `matryoshka_batch_topk`, for saelib, the eager script and SAELens."""
    saes: int = 1
    """SAEs trained at once on the same batches; only saelib can train several."""
    path: str = "auto"
    """For saelib: `torch` turns its kernels off."""
    selection: str = "screened"
    """For saelib: `float32` computes the whole product in float32."""
    learning_rate: float = 3e-4
    batches: str = ""
    """File of float32 [batches, batch_size, d_in]; none: one batch is drawn on the device, and steps on it are timed
    in a row, as a GPU needs it (`benchmarks.gpu`)."""
    device: str = "cpu"
    precision: str = "float32"
    """Of matrix products: `float32`, `tf32` or `bfloat16`."""

    def nested_widths(self) -> list[int]:
        """Latents of the smaller SAEs of `matryoshka_batch_topk`."""
        nested = self.architecture == "matryoshka_batch_topk"
        return [self.d_sae * share // 32 for share in (1, 3, 7, 15)] if nested else []


Step = Callable[[Tensor], object]

PAUSE = 0.5
"""Seconds to wait before a turn, because the previous contender's threads keep spinning for a while."""


RAISED = 4.5
"""Three standard deviations of a pre-activation. Latents without it are often positive and never selected."""


@torch.no_grad()
def raise_biases(b_enc: Tensor, setting: Setting) -> None:
    """Raises the biases of all latents but the dead ones, so only those fire."""
    if setting.dead:
        b_enc[setting.dead :] += RAISED


def autocast(setting: Setting) -> torch.autocast:
    """Lets torch choose what it makes in bfloat16, if the setting asks for that."""
    return torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bfloat16")


def serve(make: Callable[[Setting], Step]) -> None:
    """Answers each line `n` on stdin with the duration of n steps, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    setting = Setting(**json.loads(sys.argv[1]))
    torch.set_num_threads(setting.threads)
    torch.set_float32_matmul_precision("high" if setting.precision == "tf32" else "highest")
    torch.manual_seed(0)
    step = make(setting)
    batches = cycle(torch.from_numpy(np.load(setting.batches)).unbind() if setting.batches else [draw_batch(setting)])
    for line in sys.stdin:
        if setting.batches:
            answer = _turn(step, batches, int(line))
        else:
            answer = asdict(paced(lambda: step(next(batches)), setting.device, int(line)))
        print(json.dumps(answer), file=answers, flush=True)


def draw_batch(setting: Setting) -> Tensor:
    """Gaussian activations about a mean as long as their spread, on the setting's device."""
    generator = torch.Generator(setting.device).manual_seed(0)
    mean = torch.randn(setting.d_in, device=setting.device, generator=generator)
    return mean + torch.randn(setting.batch_size, setting.d_in, device=setting.device, generator=generator)


def _turn(step: Step, batches: Iterator[Tensor], steps: int) -> dict[str, object]:
    """Times each of some steps on a CPU."""
    seconds = []
    _forget_peak()
    time.sleep(PAUSE)
    step(next(batches))  # not timed: it finds the caches full of another contender's data
    cpu = time.process_time()
    for _ in range(steps):
        batch = next(batches)
        start = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / steps
    return {"seconds": seconds, "cpu": cpu, "peak_mb": _peak_mb(), "label": getattr(step, "label", "")}


def _forget_peak() -> None:
    """Restarts the measurement of peak memory, so building and compiling do not count."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_mb() -> float:
    """Returns the peak resident memory of this process, interpreter and libraries included."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
