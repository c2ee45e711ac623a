"""Runs one contender in a process of its own: a setting comes as JSON, then a number of steps to time on each line.

Nothing here needs saelib, so that it runs in the environments of other libraries too.
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
    """What every contender trains."""

    d_in: int
    d_sae: int
    k: int
    batch_size: int
    threads: int
    dead: int
    """The first so many latents never fire, because the biases of all others are raised (`raise_biases`), and are
    declared dead before each step, so that AuxK runs on them; 0: no AuxK."""
    k_aux: int
    saes: int = 1
    """Trained at once on the same batches; only saelib can."""
    path: str = "auto"
    """Of saelib: `torch` leaves its kernels out."""
    selection: str = "screened"
    """Of saelib: `float32` makes the whole product in float32."""
    learning_rate: float = 3e-4
    batches: str = ""
    """File of float32 [batches, batch_size, d_in]; none: one batch is drawn on the device, and steps on it are timed
    in a row, as a GPU needs it (`benchmarks.gpu`)."""
    device: str = "cpu"
    precision: str = "float32"
    """Of matrix products: `float32`, `tf32` or `bfloat16`."""


Step = Callable[[Tensor], object]

PAUSE = 0.5
"""Seconds before a turn: threads of the contender before go on spinning for a while."""


RAISED = 4.5
"""Three standard deviations of a pre-activation: what is not raised is often positive and never among the largest."""


@torch.no_grad()
def raise_biases(b_enc: Tensor, setting: Setting) -> None:
    """Let only the latents that are not to be dead fire."""
    if setting.dead:
        b_enc[setting.dead :] += RAISED


def autocast(setting: Setting) -> torch.autocast:
    """Lets torch choose what it makes in bfloat16, if the setting asks for that."""
    return torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bfloat16")


def serve(make: Callable[[Setting], Step]) -> None:
    """Answer each line `n` on stdin with how long n steps took, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not come between the answers
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
    for _ in range(steps):
        batch = next(batches)
        start = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak_mb": _peak_mb(), "label": getattr(step, "label", "")}


def _forget_peak() -> None:
    """Count the highest memory from here on: what building and compiling took once does not matter."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_mb() -> float:
    """Highest resident memory of this whole process, interpreter and libraries included."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
