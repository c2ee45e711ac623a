"""Runs one contender in a process of its own: a setting comes as JSON, then a number of steps to time on each line.

Nothing here needs saelib, so that it runs in the environments of other libraries too.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor


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
    """File of float32 [batches, batch_size, d_in]."""


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


def serve(make: Callable[[Setting], Step]) -> None:
    """Answer each line `n` on stdin with how long n steps took, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not come between the answers
    setting = Setting(**json.loads(sys.argv[1]))
    torch.set_num_threads(setting.threads)
    batches = cycle(torch.from_numpy(np.load(setting.batches)).unbind())
    torch.manual_seed(0)
    step = make(setting)
    for line in sys.stdin:
        seconds = []
        _forget_peak()
        time.sleep(PAUSE)
        step(next(batches))  # not timed: it finds the caches full of another contender's data
        for _ in range(int(line)):
            batch = next(batches)
            start = time.perf_counter()
            step(batch)
            seconds.append(time.perf_counter() - start)
        answer = {"seconds": seconds, "peak_mb": _peak_mb(), "label": getattr(step, "label", "")}
        print(json.dumps(answer), file=answers, flush=True)


def _forget_peak() -> None:
    """Count the highest memory from here on: what building and compiling took once does not matter."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_mb() -> float:
    """Highest resident memory of this whole process, interpreter and libraries included."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
